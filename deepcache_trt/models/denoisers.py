"""The denoisers of diffusers: their inputs, their taps and the sizes they take. Sizes are those of the latents."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models.ip_adapter import ip_adapter_call
from deepcache_trt.models.part import DOWN_RESIDUAL, MAX_IMAGES, MID_RESIDUAL, OUTPUT, Architecture
from deepcache_trt.models.processors import image_projections
from deepcache_trt.models.taps import deepcache_variants, dit_taps, unet_taps
from deepcache_trt.tensors import Dim, TensorSpec

if TYPE_CHECKING:
    import torch

_UNET_BLOCKS = {
    *("DownBlock2D", "AttnDownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "AttnUpBlock2D", "CrossAttnUpBlock2D"),
    *("DownBlockSpatioTemporal", "CrossAttnDownBlockSpatioTemporal"),
    *("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
}
_MID_BLOCKS = {"UNetMidBlock2D", "UNetMidBlock2DCrossAttn", "UNetMidBlockSpatioTemporal"}


def check_blocks(model: Any) -> None:
    """Raise UnsupportedError for blocks whose skip connections may be others."""
    blocks = {type(block).__name__ for block in (*model.down_blocks, *getattr(model, "up_blocks", ()))}
    mid = {"no mid block" if model.mid_block is None else type(model.mid_block).__name__}
    unknown = (blocks - _UNET_BLOCKS) | (mid - _MID_BLOCKS)
    if unknown:
        raise UnsupportedError(
            f"{type(model).__name__} with {', '.join(sorted(unknown))} is not covered; "
            f"covered blocks are {', '.join(sorted(_UNET_BLOCKS | _MID_BLOCKS))}; run it with diffusers alone"
        )


def _prediction(dtype: str, *shape: Dim) -> tuple[TensorSpec]:
    return (TensorSpec(name=OUTPUT, dtype=dtype, shape=("batch", *shape)),)


def unet_condition(model: Any, dtype: str) -> Architecture:
    """UNet2DConditionModel: SD1.5, SD2.1, SDXL and their kin."""
    check_blocks(model)
    return replace(uncached_unet_condition(model, dtype), taps=unet_taps(model), variants=deepcache_variants)


def uncached_unet_condition(model: Any, dtype: str) -> Architecture:
    """UNet2DConditionModel of any blocks without taps: what is refused for caching can still be counted."""
    config = model.config
    inputs = condition_inputs(model, dtype)
    if config.time_cond_proj_dim is not None:
        inputs.append(TensorSpec(name="timestep_cond", dtype=dtype, shape=("batch", config.time_cond_proj_dim)))
    return Architecture(
        inputs=tuple(inputs),
        outputs=_prediction(dtype, config.out_channels, "height", "width"),
        size_multiple=2**model.num_upsamplers,
        max_batch=MAX_IMAGES,
        call=_call_unet_condition,
    )


def condition_inputs(model: Any, dtype: str) -> list[TensorSpec]:
    """What a U-Net with text, or a ControlNet for it, is called with."""
    config = model.config
    has_other_images = config.encoder_hid_dim_type is not None and not image_projections(model)
    if has_other_images or config.addition_embed_type not in (None, "text_time"):
        raise UnsupportedError(
            f"encoder_hid_dim_type={config.encoder_hid_dim_type!r} and addition_embed_type="
            f"{config.addition_embed_type!r} are not covered; covered are None and 'text_time', with IP-Adapters or not"
        )
    inputs = [
        TensorSpec(name="sample", dtype=dtype, shape=("batch", config.in_channels, "height", "width")),
        TensorSpec(name="timestep", dtype="float32", shape=(1,)),
        TensorSpec(
            name="encoder_hidden_states", dtype=dtype, shape=("batch", "sequence", _cross_attention_dim(config))
        ),
    ]
    if config.addition_embed_type == "text_time":
        # SDXL concatenates these with float32 embeddings: as float32 inputs the graph needs no mixed Concat.
        time_ids = _time_ids(config, model)
        text = model.add_embedding.linear_1.in_features - time_ids * config.addition_time_embed_dim
        inputs.append(TensorSpec(name="text_embeds", dtype="float32", shape=("batch", text)))
        inputs.append(TensorSpec(name="time_ids", dtype="float32", shape=("batch", time_ids)))
    return [*inputs, *_class_labels(model, dtype)]


def added_conditions(tensors: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    """What diffusers passes as `added_cond_kwargs`."""
    return {name: tensors[name] for name in ("text_embeds", "time_ids") if name in tensors}


def controlled_unet_condition(model: Any, dtype: str) -> Architecture:
    """UNet2DConditionModel that ControlNets steer: what they add to its residuals are inputs too."""
    plain = unet_condition(model, dtype)
    added = residuals(model, dtype)
    assert len(added) == len(plain.taps) + 1, "a tap for each residual, and the mid block's"
    return replace(plain, inputs=(*plain.inputs, *added))


def residuals(model: Any, dtype: str) -> list[TensorSpec]:
    """One tensor for each entry of a U-Net's residual list, in its order, and one for its mid block."""

    def spec(name: str, channels: int, level: int) -> TensorSpec:
        height, width = (f"{axis}/{2**level}" if level else axis for axis in ("height", "width"))
        return TensorSpec(name=name, dtype=dtype, shape=("batch", channels, height, width))

    level = 0
    outputs = [(model.conv_in.out_channels, level)]
    for block in model.down_blocks:
        outputs += [(resnet.out_channels, level) for resnet in block.resnets]
        if block.downsamplers:
            level += 1
            outputs.append((block.downsamplers[0].out_channels, level))
    mid = model.mid_block.resnets[-1].out_channels
    return [
        *(spec(f"{DOWN_RESIDUAL}{i}", *output) for i, output in enumerate(outputs)),
        spec(MID_RESIDUAL, mid, level),
    ]


def _call_unet_condition(model: Any, tensors: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    count = sum(name.startswith(DOWN_RESIDUAL) for name in tensors)
    with ip_adapter_call(model, tensors) as images:
        (prediction,) = model(
            tensors["sample"],
            tensors["timestep"],
            tensors["encoder_hidden_states"],
            class_labels=tensors.get("class_labels"),
            timestep_cond=tensors.get("timestep_cond"),
            added_cond_kwargs={**added_conditions(tensors), **images} or None,
            down_block_additional_residuals=tuple(tensors[f"{DOWN_RESIDUAL}{i}"] for i in range(count)) or None,
            mid_block_additional_residual=tensors.get(MID_RESIDUAL),
            return_dict=False,
        )
    return {OUTPUT: prediction}


def _cross_attention_dim(config: Mapping[str, Any]) -> int:
    dims = config["cross_attention_dim"]
    return dims if isinstance(dims, int) else dims[0]


def _time_ids(config: Mapping[str, Any], model: Any) -> int:
    """How many of the embedded inputs are time ids: 5 in SDXL's refiner, whose pooled text is 1280 wide, else 6."""
    width = model.add_embedding.linear_1.in_features
    return 5 if width - 5 * config["addition_time_embed_dim"] == 1280 else 6


def _class_labels(model: Any, dtype: str) -> list[TensorSpec]:
    config, embedding = model.config, model.class_embedding
    if embedding is None:
        return []
    match config.class_embed_type:
        case None:
            return [TensorSpec(name="class_labels", dtype="int64", shape=("batch",))]
        case "timestep":
            return [TensorSpec(name="class_labels", dtype="float32", shape=("batch",))]
        case "projection" | "simple_projection":
            width = config.projection_class_embeddings_input_dim
            return [TensorSpec(name="class_labels", dtype=dtype, shape=("batch", width))]
    raise UnsupportedError(f"class_embed_type={config.class_embed_type!r} is not covered")


def unet_2d(model: Any, dtype: str) -> Architecture:
    """UNet2DModel: DDPM."""
    check_blocks(model)
    config = model.config
    upsamplers = len(config.up_block_types) - 1
    return Architecture(
        inputs=(
            TensorSpec(name="sample", dtype=dtype, shape=("batch", config.in_channels, "height", "width")),
            TensorSpec(name="timestep", dtype="float32", shape=(1,)),
            *_class_labels(model, dtype),
        ),
        outputs=_prediction(dtype, config.out_channels, "height", "width"),
        taps=unet_taps(model),
        variants=deepcache_variants,
        size_multiple=2**upsamplers,
        max_batch=MAX_IMAGES,
        call=_call_unet_2d,
    )


def _call_unet_2d(model: Any, t: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    (prediction,) = model(t["sample"], t["timestep"], class_labels=t.get("class_labels"), return_dict=False)
    return {OUTPUT: prediction}


def unet_spatio_temporal(model: Any, dtype: str, frames: int | None = None) -> Architecture:
    """UNetSpatioTemporalConditionModel: SVD, for so many frames; None: as many as its config says."""
    check_blocks(model)
    config = model.config
    time_ids = config.projection_class_embeddings_input_dim // config.addition_time_embed_dim
    frames = frames or config.num_frames
    if frames > MAX_IMAGES:
        raise UnsupportedError(f"num_frames={frames}: a graph takes at most {MAX_IMAGES} frames; draw fewer at a time")
    return Architecture(
        inputs=(
            TensorSpec(name="sample", dtype=dtype, shape=("batch", frames, config.in_channels, "height", "width")),
            TensorSpec(name="timestep", dtype="float32", shape=(1,)),
            TensorSpec(name="encoder_hidden_states", dtype=dtype, shape=("batch", 1, _cross_attention_dim(config))),
            TensorSpec(name="added_time_ids", dtype="float32", shape=("batch", time_ids)),
        ),
        outputs=_prediction(dtype, frames, config.out_channels, "height", "width"),
        taps=unet_taps(model),
        variants=deepcache_variants,
        size_multiple=2**model.num_upsamplers,
        max_batch=MAX_IMAGES // frames,
        call=_call_unet_spatio_temporal,
    )


def _call_unet_spatio_temporal(model: Any, t: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    (prediction,) = model(
        t["sample"], t["timestep"], t["encoder_hidden_states"], t["added_time_ids"], return_dict=False
    )
    return {OUTPUT: prediction}


def dit(model: Any, dtype: str) -> Architecture:
    """DiTTransformer2DModel."""
    config = model.config
    # The position table of a DiT is a constant of one size.
    size = config.sample_size
    channels = config.out_channels or config.in_channels
    return Architecture(
        inputs=(
            TensorSpec(name="sample", dtype=dtype, shape=("batch", config.in_channels, size, size)),
            TensorSpec(name="timestep", dtype="int64", shape=("batch",)),
            TensorSpec(name="class_labels", dtype="int64", shape=("batch",)),
        ),
        outputs=_prediction(dtype, channels, size, size),
        taps=dit_taps(model),
        variants=deepcache_variants,
        size_multiple=0,
        max_batch=MAX_IMAGES,
        call=_call_dit,
        fixed_size=size,
    )


def _call_dit(model: Any, t: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    (prediction,) = model(t["sample"], timestep=t["timestep"], class_labels=t["class_labels"], return_dict=False)
    return {OUTPUT: prediction}
