"""What the decoders of diffusers' VAEs share."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deepcache_trt.models.architecture import MAX_IMAGES, Architecture, Call, Read, sides
from deepcache_trt.tensors import TensorSpec

if TYPE_CHECKING:
    import torch


def read_latents(architecture: Architecture, model: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """`forward` calls the latents `sample`, or `x`."""
    return {{"sample": "latent", "x": "latent"}.get(name, name): value for name, value in arguments.items()}


def _call(model: Any, tensors: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    return {"image": model.decoder(tensors["latent"])}


def describe_decoder(
    model: Any,
    dtype: str,
    *,
    call: Call = _call,
    read: Read = read_latents,
    own_size: int | None = None,
    is_tiled: bool = False,
    frames: int | None = None,
) -> Architecture:
    """The sub-module `decoder` of a VAE.

    Args:
        model: the VAE.
        dtype: of its weights.
        call: as in `Architecture`.
        read: as in `Architecture`.
        own_size: height and width of an image that it has been made for; None: as the config says.
        is_tiled: whether it may be asked for tiles of its own size.
        frames: as in `Architecture`.
    """
    config = model.config
    factor, size = 2 ** (len(config.block_out_channels) - 1), own_size or config.sample_size
    image = ("batch", config.out_channels, f"{factor}*height", f"{factor}*width")
    return Architecture(
        inputs=(TensorSpec(name="latent", dtype=dtype, shape=("batch", config.latent_channels, "height", "width")),),
        outputs=(TensorSpec(name="image", dtype=dtype, shape=image),),
        call=call,
        answer=_answer,
        read=read,
        max_batch=MAX_IMAGES,
        pixels=factor,
        own_size=sides(size, 1),
        tile=max(1, size // factor) if is_tiled else None,
        frames=frames,
    )


def _answer(model: Any, outputs: Mapping[str, "torch.Tensor"], arguments: Mapping[str, Any]) -> Any:
    return outputs["image"]
