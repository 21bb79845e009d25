"""Latent diffusion of classes around tiny models: every branch of the U-Net, and a codebook of sixteen."""

import functools
from typing import Any

import diffusers
import torch
from diffusers import UNet2DConditionModel

from deepcache_trt.models.definitions.ldm import ClassEmbedder, LDMClassToImagePipeline
from tests import tiny

CLASSES = 10

# As published.
_SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195}
OPTIONS: dict[str, dict[str, Any]] = {
    "DDIMScheduler": {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1},
    "PNDMScheduler": {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1},
}


@functools.cache
def unet() -> Any:
    """One instance for each test process; tests must not change its weights."""
    torch.manual_seed(0)
    config = {
        "sample_size": 8,
        "in_channels": 3,
        "out_channels": 3,
        "layers_per_block": 1,
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 8,
        "attention_head_dim": 1,
        "norm_num_groups": 4,
    }
    model: Any = UNet2DConditionModel(**config)
    return model.eval()


@functools.cache
def class_embedder() -> Any:
    torch.manual_seed(0)
    return ClassEmbedder(CLASSES + 1, 8).eval()


def new_vqvae() -> Any:
    """Another instance of it; its codes are as far apart as latents are."""
    torch.manual_seed(0)
    model_class, config = tiny.PARTS["vq_model"]
    model = model_class(**config | {"num_vq_embeddings": 16, "scaling_factor": 1.0}).eval()
    torch.nn.init.normal_(model.quantize.embedding.weight)
    return model


@functools.cache
def vqvae() -> Any:
    """One instance for each test process."""
    return new_vqvae()


def plain(scheduler: str = "DDIMScheduler") -> Any:
    """The pipeline itself, without engines."""
    options = {**_SCHEDULE, **OPTIONS.get(scheduler, {})}
    pipe: Any = LDMClassToImagePipeline(unet(), vqvae(), class_embedder(), getattr(diffusers, scheduler)(**options))
    pipe.set_progress_bar_config(disable=True)
    return pipe
