"""What the U-Nets of diffusers share: blocks, skip connections and labels. Sizes are those of the latents."""

from collections.abc import Mapping
from typing import Any

from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models.architecture import DOWN_RESIDUAL, MID_RESIDUAL
from deepcache_trt.models.taps import Tap
from deepcache_trt.tensors import TensorSpec

_BLOCKS = {
    *("DownBlock2D", "AttnDownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "AttnUpBlock2D", "CrossAttnUpBlock2D"),
    *("DownBlockSpatioTemporal", "CrossAttnDownBlockSpatioTemporal"),
    *("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
}
_MID_BLOCKS = {"UNetMidBlock2D", "UNetMidBlock2DCrossAttn", "UNetMidBlockSpatioTemporal"}


def check_blocks(model: Any) -> None:
    """Raise UnsupportedError for blocks whose skip connections may be others."""
    blocks = {type(block).__name__ for block in (*model.down_blocks, *getattr(model, "up_blocks", ()))}
    mid = {"no mid block" if model.mid_block is None else type(model.mid_block).__name__}
    unknown = (blocks - _BLOCKS) | (mid - _MID_BLOCKS)
    if unknown:
        raise UnsupportedError(
            f"{type(model).__name__} with {', '.join(sorted(unknown))} is not covered; "
            f"covered blocks are {', '.join(sorted(_BLOCKS | _MID_BLOCKS))}; run it with diffusers alone"
        )


def unet_taps(model: Any) -> tuple[Tap, ...]:
    """The taps of a U-Net, in the order k = 0 … n-1 of its residual list (DESIGN.md, "Tap numbers of a U-Net").

    Tap k is the tensor that enters the up layer which concatenates residual k: the output of the layer before it.
    """
    paths = ["mid_block"]  # feeds the first up layer, which takes the last residual
    for i, block in enumerate(model.up_blocks):
        layers = "attentions" if getattr(block, "attentions", None) else "resnets"
        paths += [f"up_blocks.{i}.{layers}.{j}" for j in range(len(block.resnets) - 1)]
        paths.append(f"up_blocks.{i}")  # its up-sampler is part of it, where it has one
    paths.pop()  # the last up layer feeds the output convolution, not a residual
    return tuple(Tap(name=f"tap_{k}", path=path) for k, path in enumerate(reversed(paths)))


def residuals(model: Any, dtype: str) -> list[TensorSpec]:
    """One tensor for each entry of a U-Net's residual list, in its order, and one for its mid block."""

    size = ("height", "width")
    outputs = [(model.conv_in.out_channels, *size)]
    for block in model.down_blocks:
        outputs += [(resnet.out_channels, *size) for resnet in block.resnets]
        for sampler in block.downsamplers or ():
            size = _halved(size[0], sampler), _halved(size[1], sampler)
            outputs.append((sampler.out_channels, *size))
    named = {f"{DOWN_RESIDUAL}{i}": output for i, output in enumerate(outputs)}
    named[MID_RESIDUAL] = (model.mid_block.resnets[-1].out_channels, *size)
    return [TensorSpec(name=name, dtype=dtype, shape=("batch", *output)) for name, output in named.items()]


def _halved(size: str, sampler: Any) -> str:
    """What a down-sampler makes of a height or width: it rounds up, unless it pads on one side only."""
    return f"({size} + 1)//2" if sampler.padding else f"({size})//2"


def downsampling(model: Any) -> int:
    """How many times smaller than the latents its innermost feature maps are."""
    return int(2 ** sum(bool(block.downsamplers) for block in model.down_blocks))


def class_labels(model: Any, dtype: str) -> list[TensorSpec]:
    """The labels that a U-Net takes, if it does."""
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


def rows(model: Any) -> dict[str, int]:
    """Of the table of labels, where a U-Net has one."""
    count = getattr(model.class_embedding, "num_embeddings", None)
    return {} if count is None else {"class_labels": count}


def cross_attention_dim(config: Mapping[str, Any]) -> int:
    """The width of what a U-Net attends to."""
    dims = config["cross_attention_dim"]
    return dims if isinstance(dims, int) else dims[0]
