"""UNet2DModel: DDPM, whose latents are pixels (Ho et al. 2020)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

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
from deepcache_trt.models.families.unet import check_blocks, class_labels, downsampling, rows, unet_taps
from deepcache_trt.tensors import TensorSpec

if TYPE_CHECKING:
    import torch


def _describe(model: Any, dtype: str, form: CallForm) -> Architecture:
    check_blocks(model)
    config = model.config
    return Architecture(
        inputs=(
            TensorSpec(name="sample", dtype=dtype, shape=("batch", config.in_channels, "height", "width")),
            TensorSpec(name="timestep", dtype="float32", shape=(1,)),
            *class_labels(model, dtype),
        ),
        outputs=prediction(dtype, config.out_channels, "height", "width"),
        call=_call,
        answer=answer_as("UNet2DOutput"),
        taps=unet_taps(model),
        rows=rows(model),
        size_multiple=downsampling(model),
        downsampling=downsampling(model),
        max_batch=MAX_IMAGES,
        own_size=sides(config.sample_size or UNNAMED_SIZE, 1),
    )


def _call(model: Any, tensors: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    labels = tensors.get("class_labels")
    (predicted,) = model(tensors["sample"], tensors["timestep"], class_labels=labels, return_dict=False)
    return {OUTPUT: predicted}


UNET_2D = Family(
    library="diffusers",
    class_name="UNet2DModel",
    describe=_describe,
    is_denoiser=True,
    straight=frozenset({"DDPMPipeline", "DDIMPipeline"}),
)
