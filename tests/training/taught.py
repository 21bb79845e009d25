"""A tiny DiT and a tiny U-Net to train routers for, and data for them."""

import functools
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler, DiTPipeline

from deepcache_trt.models.registry import architecture_of
from deepcache_trt.training.examples import Examples
from deepcache_trt.training.pair_loss import Teacher, teacher_of
from deepcache_trt.training.router_training import Recipe, RouterTraining
from tests import tiny

STEPS, CLASSES = 6, 3


def scheduler() -> Any:
    return DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)


@functools.cache
def teacher(name: str = "dit") -> Teacher:
    """One instance for each test process."""
    model = tiny.new_denoiser(name)
    return teacher_of(model, architecture_of(model, dtype="float32"), scheduler(), STEPS)


def condition(name: str = "dit", count: int = 4) -> dict[str, torch.Tensor]:
    return {"class_labels": torch.arange(count) % CLASSES} if name == "dit" else {}


def examples(count: int = 8) -> Examples:
    """Of three classes of a DiT, and a fourth that stands for none."""
    latents = torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return Examples(
        latents=latents, rows=torch.arange(count) % CLASSES, conditions={"class_labels": torch.arange(CLASSES + 1)}
    )


def training(**recipe: Any) -> RouterTraining:
    made = Recipe(**{"steps": STEPS, "batch": 4, **recipe})
    return RouterTraining(teacher(), examples(), made, Accelerator(cpu=True))


def dit_pipeline() -> Any:
    """A pipeline of a tiny DiT with a label for none where DiTPipeline expects it."""
    model_class, config = tiny.ARCHITECTURES["dit"]
    torch.manual_seed(0)
    model = model_class(**{**config, "num_layers": 2, "num_embeds_ada_norm": 1000}).eval()
    pipe: Any = DiTPipeline(transformer=model, vae=tiny.part("vae"), scheduler=scheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe
