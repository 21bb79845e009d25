"""The upscaler by four: its U-Net takes the small image as channels and the noise level on it as a class label."""

import functools
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from tests.pipelines.drawing import difference
from tests.pipelines.micro import STRAIGHT, cached, draw
from tests.reference import cached_by_hooks

UPSCALE = STRAIGHT["sd upscale"]
# As in stabilityai/stable-diffusion-x4-upscaler, only the last block attends to itself.
CONFIG: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 7,
    "out_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "only_cross_attention": (True, False),
    "num_class_embeds": 1000,
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
    "use_linear_projection": True,
    "norm_num_groups": 4,
}
CALLS: dict[str, dict[str, Any]] = {
    "guided": {},
    "unguided": {"guidance_scale": 1.0},
    "noisy": {"noise_level": 300, "guidance_scale": 4.0},
}


@functools.cache
def unet() -> Any:
    torch.manual_seed(0)
    model: Any = UNet2DConditionModel(**CONFIG)
    return model.eval()


def plain() -> Any:
    pipe = UPSCALE.new()
    pipe.register_modules(unet=unet())
    return pipe


@functools.cache
def engines() -> Any:
    pipe = cached(UPSCALE)
    pipe.register_modules(unet=unet())
    return pipe


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
@pytest.mark.parametrize(("interval", "branch"), [(1, 0), (2, 0), (3, 2)])
def test_an_image_is_upscaled_by_the_whole_loop(interval: int, branch: int, call: dict[str, Any]) -> None:
    reference, pipe = plain(), engines()
    pipe.set_cache_params(cache_interval=interval, cache_branch_id=branch)
    found = draw(pipe, UPSCALE, num_inference_steps=5, **call)
    assert (pipe.last_run.way, pipe.last_run.reason) == ("whole loop", "")
    with cached_by_hooks(reference.unet, lambda call: call % interval == 0, branch=branch):
        expected = draw(reference, UPSCALE, num_inference_steps=5, **call)
    assert difference(found, expected) <= 1e-4
    uncached = draw(reference, UPSCALE, num_inference_steps=5, **call)
    assert (difference(uncached, expected) > 1e-3) == (interval > 1)


def test_an_image_is_upscaled_step_by_step_for_a_callback() -> None:
    pipe, seen = engines(), []
    pipe.set_cache_params(cache_interval=2)
    looped = draw(pipe, UPSCALE, num_inference_steps=4)
    stepped = draw(pipe, UPSCALE, num_inference_steps=4, callback=lambda i, t, latents: seen.append(i))
    assert pipe.last_run.reason == "callback wants Python between the steps"
    assert seen == [0, 1, 2, 3]
    assert difference(looped, stepped) <= 1e-5 * looped.abs().max()


def test_the_noise_level_counts() -> None:
    pipe = engines()
    pipe.set_cache_params(cache_interval=2)
    little, much = (draw(pipe, UPSCALE, num_inference_steps=4, noise_level=level) for level in (0, 300))
    assert difference(little, much) > 1e-3
