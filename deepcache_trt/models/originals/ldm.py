"""The layout of latent diffusion's checkpoints (CompVis/latent-diffusion): U-Net, VQ model and classes in one file.

diffusers knows the layouts of the U-Net and the autoencoder, from Stable Diffusion, which has taken them over.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deepcache_trt.models.originals.original import Original

if TYPE_CHECKING:
    import torch

_UNET, _VQ_MODEL, _CLASSES = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."

# The moving average of the U-Net's weights, by their names from here on and without dots.
_AVERAGE, _AVERAGED = "model_ema.", "model."

_CODEBOOK = "quantize.embedding.weight"
# Of the VQ model's training, beside its own weights.
_LOSS = "loss."


def unet(tensors: "Mapping[str, torch.Tensor]", config: Mapping[str, Any]) -> "dict[str, torch.Tensor]":
    """Those of the U-Net, averaged where there is an average, as it is what the first code samples with."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    own = _beginning_with(_UNET, tensors)
    for name in own:
        average = _AVERAGE + (_UNET + name).removeprefix(_AVERAGED).replace(".", "")
        own[name] = tensors.get(average, own[name])
    return _with_rest(convert_ldm_unet_checkpoint({_UNET + name: each for name, each in own.items()}, config), own)


def vq_model(tensors: "Mapping[str, torch.Tensor]", config: Mapping[str, Any]) -> "dict[str, torch.Tensor]":
    """Those of the VQ model."""
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    own = _beginning_with(_VQ_MODEL, tensors)
    own = {name: each for name, each in own.items() if not name.startswith(_LOSS)}
    codebook = {_CODEBOOK: own.pop(_CODEBOOK)} if _CODEBOOK in own else {}
    converted = convert_ldm_vae_checkpoint({_VQ_MODEL + name: each for name, each in own.items()}, config)
    return _with_rest(converted, own) | codebook


def class_embedder(tensors: "Mapping[str, torch.Tensor]", config: Mapping[str, Any]) -> "dict[str, torch.Tensor]":
    """Those of the embedding of classes."""
    return _beginning_with(_CLASSES, tensors)


def _beginning_with(begin: str, tensors: "Mapping[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
    return {name.removeprefix(begin): each for name, each in tensors.items() if name.startswith(begin)}


def _with_rest(converted: "dict[str, torch.Tensor]", own: "Mapping[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
    """What was converted, and by its first name what diffusers has left out, so that it is found to have no place."""
    taken = {each.data_ptr() for each in converted.values()}
    return converted | {name: each for name, each in own.items() if each.data_ptr() not in taken}


LDM = Original(
    code="latent-diffusion",
    pipeline="LDMClassToImagePipeline",
    parts={"unet": unet, "vqvae": vq_model, "class_embedder": class_embedder},
    scheduler=(
        "DDIMScheduler",
        {
            "beta_schedule": "scaled_linear",
            "beta_start": 0.0015,
            "beta_end": 0.0195,
            "clip_sample": False,
            "set_alpha_to_one": False,
            "steps_offset": 1,
        },
    ),
)
