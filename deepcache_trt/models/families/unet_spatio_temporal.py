"""UNetSpatioTemporalConditionModel: Stable Video Diffusion (Blattmann et al. 2023)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models.architecture import (
    MAX_IMAGES,
    OUTPUT,
    UNNAMED_SIZE,
    Architecture,
    CallForm,
    answer_as,
    prediction,
    sides,
)
from deepcache_trt.models.families.family import Family
from deepcache_trt.models.families.unet import check_blocks, cross_attention_dim, downsampling, unet_taps
from deepcache_trt.tensors import LATENT_PIXELS, TensorSpec

if TYPE_CHECKING:
    import torch


def _describe(model: Any, dtype: str, form: CallForm) -> Architecture:
    check_blocks(model)
    config = model.config
    time_ids = config.projection_class_embeddings_input_dim // config.addition_time_embed_dim
    frames = form.frames or config.num_frames
    if frames > MAX_IMAGES:
        raise UnsupportedError(f"num_frames={frames}: a graph takes at most {MAX_IMAGES} frames; draw fewer at a time")
    return Architecture(
        inputs=(
            TensorSpec(name="sample", dtype=dtype, shape=("batch", frames, config.in_channels, "height", "width")),
            TensorSpec(name="timestep", dtype="float32", shape=(1,)),
            TensorSpec(name="encoder_hidden_states", dtype=dtype, shape=("batch", 1, cross_attention_dim(config))),
            TensorSpec(name="added_time_ids", dtype="float32", shape=("batch", time_ids)),
        ),
        outputs=prediction(dtype, frames, config.out_channels, "height", "width"),
        call=_call,
        answer=answer_as("UNetSpatioTemporalConditionOutput"),
        taps=unet_taps(model),
        downsampling=downsampling(model),
        max_batch=MAX_IMAGES // frames,
        pixels=LATENT_PIXELS,
        own_size=sides(config.sample_size or UNNAMED_SIZE, LATENT_PIXELS),
    )


def _form(model: Any, arguments: Mapping[str, Any]) -> CallForm:
    """Another number of frames than that of the config makes another graph."""
    own, sample = model.config.num_frames, arguments.get("sample")
    # sample: [B, F, C, H/8, W/8]
    return CallForm(frames=sample.shape[1] if sample is not None and sample.shape[1] != own else None)


def _call(model: Any, tensors: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    names = ("sample", "timestep", "encoder_hidden_states", "added_time_ids")
    (predicted,) = model(*(tensors[name] for name in names), return_dict=False)
    return {OUTPUT: predicted}


UNET_SPATIO_TEMPORAL = Family(
    library="diffusers",
    class_name="UNetSpatioTemporalConditionModel",
    describe=_describe,
    is_denoiser=True,
    form=_form,
    straight=frozenset({"StableVideoDiffusionPipeline"}),
)
