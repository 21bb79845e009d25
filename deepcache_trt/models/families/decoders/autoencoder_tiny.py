"""AutoencoderTiny: a small VAE (TAESD and its kin) in the place of a pipeline's own; its decoder runs on engines."""

from typing import Any

from deepcache_trt.models.architecture import Architecture, CallForm
from deepcache_trt.models.families.decoders.decoder import describe_decoder
from deepcache_trt.models.families.family import Family

# Its config names no size; diffusers cuts larger images into tiles of this, where it is asked to.
_SIZE = 512


def _describe(model: Any, dtype: str, form: CallForm) -> Architecture:
    """`vae.decoder` alone, which plain, sliced and tiled decoding all go through."""
    return describe_decoder(model, dtype, own_size=_SIZE, is_tiled=True)


AUTOENCODER_TINY = Family(library="diffusers", class_name="AutoencoderTiny", describe=_describe, module="decoder")
