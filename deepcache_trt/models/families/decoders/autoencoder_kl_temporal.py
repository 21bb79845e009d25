"""AutoencoderKLTemporalDecoder: the VAE of Stable Video Diffusion; its decoder runs on engines."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models.architecture import Architecture, CallForm
from deepcache_trt.models.families.decoders.decoder import describe_decoder, read_latents
from deepcache_trt.models.families.family import Family

if TYPE_CHECKING:
    import torch

# diffusers decodes a video whole unless `decode_chunk_size` says otherwise; Stable Video Diffusion has 14 frames or 25.
_FRAMES = 25


def _describe(model: Any, dtype: str, form: CallForm) -> Architecture:
    """The frames of one video, or of a chunk of it, are the batch; diffusers has no tiling for it."""
    return describe_decoder(model, dtype, call=_call, read=_read, frames=_FRAMES)


def _call(model: Any, tensors: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    latent = tensors["latent"]
    frames = latent.shape[0]  # tracing follows this, but not `len`
    # Of the indicator the layers read nothing but the shape: they mix space and time by learned factors.
    return {"image": model.decoder(latent, image_only_indicator=latent.new_zeros(1, frames), num_frames=frames)}


def _read(architecture: Architecture, model: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The latents, without what says how they are split into videos: the graph takes one video."""
    given = read_latents(architecture, model, arguments)
    frames, indicator = given.pop("num_frames", 1), given.pop("image_only_indicator")
    if not len(given["latent"]) == frames == indicator.shape[-1]:
        raise UnsupportedError(
            f"num_frames={frames} of {len(given['latent'])} latents: the graph of a temporal decoder takes the frames "
            f"of one video; decode each video by itself"
        )
    return given


def _dtype(config: Mapping[str, Any], dtype: str) -> str:
    """Whatever its config says of upcasting: diffusers does that to the encoder alone."""
    return dtype


AUTOENCODER_KL_TEMPORAL = Family(
    library="diffusers",
    class_name="AutoencoderKLTemporalDecoder",
    describe=_describe,
    module="decoder",
    dtype=_dtype,
)
