"""AutoencoderKL: the VAE of Stable Diffusion; its decoder runs on engines."""

from typing import Any

from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models.architecture import Architecture, CallForm
from deepcache_trt.models.families.decoders.decoder import describe_decoder
from deepcache_trt.models.families.family import Family


def _describe(model: Any, dtype: str, form: CallForm) -> Architecture:
    """`vae.decoder` alone, which plain, sliced and tiled decoding all go through."""
    unknown = set(model.config.up_block_types) - {"UpDecoderBlock2D"}
    if unknown:
        raise UnsupportedError(f"a VAE with {', '.join(sorted(unknown))} is not covered; covered is UpDecoderBlock2D")
    return describe_decoder(model, dtype, is_tiled=True)


AUTOENCODER_KL = Family(library="diffusers", class_name="AutoencoderKL", describe=_describe, module="decoder")
