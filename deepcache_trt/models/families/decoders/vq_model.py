"""VQModel: the autoencoder of latent diffusion that looks its latents up in a codebook; its decoder runs on engines."""

from typing import Any

from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models.architecture import Architecture, CallForm
from deepcache_trt.models.families.decoders.decoder import describe_decoder
from deepcache_trt.models.families.family import Family


def _describe(model: Any, dtype: str, form: CallForm) -> Architecture:
    """`vqvae.decoder` alone: the codebook stays in PyTorch.

    The nearest of 8,192 codes of three numbers is a thousandth of the decoder's arithmetic, and where two are equally
    near, or nearly so, an engine that rounds otherwise than PyTorch would take the other one.
    """
    unknown = set(model.config.up_block_types) - {"UpDecoderBlock2D"}
    if unknown:
        raise UnsupportedError(
            f"a VQModel with {', '.join(sorted(unknown))} is not covered; covered is UpDecoderBlock2D"
        )
    if model.config.norm_type != "group":
        raise UnsupportedError(
            f"a VQModel with norm_type={model.config.norm_type!r} is not covered; covered is 'group'"
        )
    return describe_decoder(model, dtype)


VQ_MODEL = Family(library="diffusers", class_name="VQModel", describe=_describe, module="decoder")
