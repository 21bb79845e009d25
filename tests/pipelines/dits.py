"""Pipelines around a tiny DiT."""

import functools
from typing import Any

import diffusers
import torch

from tests import tiny

# Where some schedulers clip what they take for a picture, and DiT's latents are none.
_UNCLIPPED = ("DDIMScheduler", "DDPMScheduler")


@functools.cache
def model(*, learns_variance: bool) -> Any:
    """With a label for each class of ImageNet and one for none, as the pipeline has them."""
    model_class, config = tiny.ARCHITECTURES["dit"]
    torch.manual_seed(0)
    channels = {"out_channels": 8 if learns_variance else 4}
    return model_class(**config | channels | {"num_embeds_ada_norm": 1000}).eval()


def plain(scheduler: str = "DDIMScheduler", *, learns_variance: bool = True) -> Any:
    """A pipeline of diffusers."""
    options: dict[str, Any] = {"clip_sample": False} if scheduler in _UNCLIPPED else {}
    pipe: Any = diffusers.DiTPipeline(
        model(learns_variance=learns_variance), tiny.part("vae"), getattr(diffusers, scheduler)(**options)
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
