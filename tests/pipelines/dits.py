"""Pipelines around tiny transformers of classes: a DiT, with a learned variance or without, and a U-ViT."""

import functools
from typing import Any

import diffusers
import torch

from deepcache_trt.models.definitions.dit import OriginalDiTPipeline
from deepcache_trt.models.definitions.uvit import UViT
from tests import tiny

KINDS = ("dit", "dit without variance", "uvit")

# Where some schedulers clip what they take for a picture, and these latents are none.
_UNCLIPPED = ("DDIMScheduler", "DDPMScheduler")


@functools.cache
def model(kind: str) -> Any:
    """With a label for each class of ImageNet and one for none, as the pipeline has them."""
    torch.manual_seed(0)
    if kind == "uvit":
        return UViT(sample_size=8, num_attention_heads=2, attention_head_dim=8, num_layers=4).eval()
    model_class, config = tiny.ARCHITECTURES["dit"]
    channels = {"out_channels": 8 if kind == "dit" else 4}
    return model_class(**config | channels | {"num_embeds_ada_norm": 1000}).eval()


def plain(scheduler: str = "DDIMScheduler", *, kind: str = "dit") -> Any:
    """A pipeline of diffusers."""
    options: dict[str, Any] = {"clip_sample": False} if scheduler in _UNCLIPPED else {}
    pipe: Any = diffusers.DiTPipeline(model(kind), tiny.part("vae"), getattr(diffusers, scheduler)(**options))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def original(scheduler: str = "DDIMScheduler") -> Any:
    """The same, guided as DiT's authors do."""
    original_class: Any = OriginalDiTPipeline
    pipe = original_class(**plain(scheduler).components)
    pipe.set_progress_bar_config(disable=True)
    return pipe
