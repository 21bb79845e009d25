"""The VAEs of diffusers: their decoders."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models.part import MAX_IMAGES, Architecture, Call
from deepcache_trt.tensors import TensorSpec

if TYPE_CHECKING:
    import torch


def vae_decoder(model: Any, dtype: str) -> Architecture:
    """AutoencoderKL: `vae.decoder` alone, which plain, sliced and tiled decoding all go through."""
    unknown = set(model.config.up_block_types) - {"UpDecoderBlock2D"}
    if unknown:
        raise UnsupportedError(f"a VAE with {', '.join(sorted(unknown))} is not covered; covered is UpDecoderBlock2D")
    return _decoder(model, dtype, lambda model, t: {"image": model.decoder(t["latent"])})


def temporal_decoder(model: Any, dtype: str) -> Architecture:
    """AutoencoderKLTemporalDecoder: the frames of one video, or of a chunk of it, are the batch."""
    return _decoder(model, dtype, _decode_frames)


def _decode_frames(model: Any, t: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    frames = t["latent"].shape[0]  # which tracing follows, as it does not `len`
    # Of the indicator the layers read nothing but the shape: they mix space and time by learned factors.
    indicator = t["latent"].new_zeros(1, frames)
    return {"image": model.decoder(t["latent"], image_only_indicator=indicator, num_frames=frames)}


def _decoder(model: Any, dtype: str, call: Call) -> Architecture:
    config = model.config
    factor = 2 ** (len(config.block_out_channels) - 1)
    image = ("batch", config.out_channels, f"{factor}*height", f"{factor}*width")
    return Architecture(
        inputs=(TensorSpec(name="latent", dtype=dtype, shape=("batch", config.latent_channels, "height", "width")),),
        outputs=(TensorSpec(name="image", dtype=dtype, shape=image),),
        call=call,
        max_batch=MAX_IMAGES,
        module="decoder",
    )
