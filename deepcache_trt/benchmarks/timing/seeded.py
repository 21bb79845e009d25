"""Pipelines of real size with seeded weights, for timing without a download."""

from collections.abc import Mapping
from typing import Any

import torch

from deepcache_trt.builder.model_source import random_components
from deepcache_trt.engines.store import Store
from deepcache_trt.errors import UnsupportedError
from deepcache_trt.export.weights import seeded
from deepcache_trt.models.catalogue import CATALOGUE, resolve
from deepcache_trt.models.entries.entry import ModelConfig
from deepcache_trt.models.fresh import empty_model
from deepcache_trt.tensors import PROMPT_TOKENS

# That of Stable Diffusion 1.5.
_SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def random_pipeline(model: str, dtype: str, store: Store, *, prompts: bool = False) -> str:
    """A folder with a catalogue model of real size and seeded weights, drawn once and kept in the store.

    The weights of a lower precision are the rounded ones of a higher one.

    Args:
        model: a name of the catalogue, of a Stable Diffusion.
        dtype: of the weights.
        store: where they are kept.
        prompts: with text encoders of real size, and a tokenizer of the bundled model's vocabulary that pads to the
            published 77 tokens; without, pipelines take embeddings.

    Raises:
        UnknownNameError: not in the catalogue.
        UnsupportedError: what draws no images from a prompt.
    """
    folder = store.root / "caches" / "random" / f"{model}-{dtype}{'-prompts' if prompts else ''}"
    if not folder.is_dir():
        pipe = _assemble(model, dtype, prompts)
        with store.scratch() as scratch:
            pipe.save_pretrained(scratch / model)
            folder.parent.mkdir(parents=True, exist_ok=True)
            (scratch / model).rename(folder)
    return str(folder)


def drawn_pipeline(model: str, dtype: str, device: str) -> Any:
    """A catalogue model of real size, its weights drawn on the device and kept nowhere; it takes embeddings.

    The weights are the same for the same device, and others than those of `random_pipeline`.

    Args:
        model: a name of the catalogue, of a Stable Diffusion whose parts it says.
        dtype: of the weights.
        device: where they are drawn and stay.

    Raises:
        UnsupportedError: what draws no images from a prompt.
    """
    known = _parts_of(model)
    encoders = [name for name in known if name.startswith("text_encoder")]
    parts: dict[str, Any] = dict.fromkeys([*encoders, *map(_tokenizer_name, encoders)])
    return _pipeline(parts | {name: _drawn(known[name], dtype, device) for name in ("unet", "vae")})


def _drawn(part: ModelConfig, dtype: str, device: str) -> Any:
    model = empty_model(part.model_class(), part.config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    # A model that overflows in half precision is loaded in it all the same: the pipeline casts it when it is needed.
    model.load_state_dict(dict(seeded(shapes, dtype=dtype, seed=0, device=device)), assign=True)
    return model.requires_grad_(False).to(device)


def seeded_prompt(unet: Any) -> dict[str, torch.Tensor]:
    """Seeded embeddings for one guided image of a pipeline without text encoders, where its U-Net wants them."""
    generator, width = torch.Generator().manual_seed(0), unet.config.cross_attention_dim
    embeds = {"prompt_embeds": torch.randn((2, 1, PROMPT_TOKENS, width), generator=generator)}
    if unet.config.addition_embed_type is not None:  # SDXL's: six numbers of the size, and the pooled prompt
        of_size = 6 * unet.config.addition_time_embed_dim
        pooled = unet.config.projection_class_embeddings_input_dim - of_size
        embeds["pooled_prompt_embeds"] = torch.randn((2, 1, pooled), generator=generator)
    return {
        f"{prefix}{name}": both[number].to(unet.device, unet.dtype)
        for name, both in embeds.items()
        for number, prefix in enumerate(("", "negative_"))
    }


def _assemble(model: str, dtype: str, prompts: bool) -> Any:
    known = _parts_of(model)
    encoders = [name for name in known if name.startswith("text_encoder")]
    drawn = ["unet", "vae", *(encoders if prompts else [])]
    parts: dict[str, Any] = dict.fromkeys(encoders)
    parts |= {_tokenizer_name(name): _tokenizer() if prompts else None for name in encoders}
    parts |= {each.part: each.module() for each in random_components(model, dtype=dtype, parts=drawn)}
    return _pipeline(parts)


def _parts_of(model: str) -> Mapping[str, ModelConfig]:
    """What a Stable Diffusion of the catalogue is made of; nothing where the catalogue does not say."""
    known = CATALOGUE[model].parts if model in CATALOGUE else {}
    if known and "text_encoder" not in known:
        raise UnsupportedError(f"{model} draws nothing from a prompt; seeded pipelines are sd15, sd21 and sdxl")
    return known


def _pipeline(parts: Mapping[str, Any]) -> Any:
    import diffusers

    scheduler = diffusers.DDIMScheduler(**_SCHEDULER)
    if "text_encoder_2" in parts:
        return diffusers.StableDiffusionXLPipeline(**parts, scheduler=scheduler, add_watermarker=False)
    return diffusers.StableDiffusionPipeline(
        **parts, scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def _tokenizer_name(encoder: str) -> str:
    return encoder.replace("text_encoder", "tokenizer")


def _tokenizer() -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(f"{resolve('digits')}/tokenizer", model_max_length=PROMPT_TOKENS)
