"""Pipelines of real size with seeded weights, for timing without a download."""

from typing import Any

from deepcache_trt.engines.store import Store
from deepcache_trt.pipelines.model_source import random_components

# That of Stable Diffusion 1.5.
_SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def random_pipeline(model: str, dtype: str, store: Store) -> str:
    """A folder with a catalogue model of real size and seeded weights, drawn once and kept in the store.

    The weights of a lower precision are the rounded ones of a higher one. It has no text encoder, since no tokenizer
    comes without a download.
    """
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    folder = store.root / "caches" / "random" / f"{model}-{dtype}"
    if not folder.is_dir():
        unet, vae = (part.module() for part in random_components(model, dtype=dtype, parts=("unet", "vae")))
        pipe: Any = StableDiffusionPipeline(
            unet=unet,
            vae=vae,
            scheduler=DDIMScheduler(**_SCHEDULER),
            text_encoder=None,
            tokenizer=None,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        with store.scratch() as scratch:
            pipe.save_pretrained(scratch / model)
            folder.parent.mkdir(parents=True, exist_ok=True)
            (scratch / model).rename(folder)
    return str(folder)
