"""The VAE of diffusers: its decoder."""

from typing import Any

from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models.part import MAX_IMAGES, Architecture
from deepcache_trt.tensors import TensorSpec


def vae_decoder(model: Any, dtype: str) -> Architecture:
    """AutoencoderKL: `vae.decoder` alone, which plain, sliced and tiled decoding all go through."""
    config = model.config
    unknown = set(config.up_block_types) - {"UpDecoderBlock2D"}
    if unknown:
        raise UnsupportedError(f"a VAE with {', '.join(sorted(unknown))} is not covered; covered is UpDecoderBlock2D")
    factor = 2 ** (len(config.block_out_channels) - 1)
    image = ("batch", config.out_channels, f"{factor}*height", f"{factor}*width")
    return Architecture(
        inputs=(TensorSpec(name="latent", dtype=dtype, shape=("batch", config.latent_channels, "height", "width")),),
        outputs=(TensorSpec(name="image", dtype=dtype, shape=image),),
        call=lambda model, t: {"image": model.decoder(t["latent"])},
        max_batch=MAX_IMAGES,
        module="decoder",
    )
