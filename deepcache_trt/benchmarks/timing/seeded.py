"""Pipelines of real size with seeded weights, for timing without a download."""

from typing import Any

from deepcache_trt.builder.model_source import random_components
from deepcache_trt.engines.store import Store
from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models.catalogue import CATALOGUE, resolve
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


def _assemble(model: str, dtype: str, prompts: bool) -> Any:
    import diffusers

    known = CATALOGUE[model].parts if model in CATALOGUE else {}
    if known and "text_encoder" not in known:
        raise UnsupportedError(f"{model} draws nothing from a prompt; seeded pipelines are sd15, sd21 and sdxl")
    encoders = [name for name in known if name.startswith("text_encoder")]
    drawn = ["unet", "vae", *(encoders if prompts else [])]
    parts: dict[str, Any] = dict.fromkeys(encoders)
    parts |= {name.replace("text_encoder", "tokenizer"): _tokenizer() if prompts else None for name in encoders}
    parts |= {each.part: each.module() for each in random_components(model, dtype=dtype, parts=drawn)}
    scheduler = diffusers.DDIMScheduler(**_SCHEDULER)
    if "text_encoder_2" in parts:
        return diffusers.StableDiffusionXLPipeline(**parts, scheduler=scheduler, add_watermarker=False)
    return diffusers.StableDiffusionPipeline(
        **parts, scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def _tokenizer() -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(f"{resolve('digits')}/tokenizer", model_max_length=PROMPT_TOKENS)
