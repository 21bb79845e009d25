"""Plain diffusers draws every multiple of 8 pixels, whether a U-Net can halve the latents or has to round."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline

from deepcache_trt import DeepCachePipeline
from tests import tiny
from tests.pipelines import micro
from tests.pipelines.control_images import control
from tests.pipelines.drawing import difference, draw, python_between_steps
from tests.reference import cached_by_hooks

WITHIN = 1e-4  # of latents

# In pixels, of which the tiny Stable Diffusion halves the latents three times: 9 rows are 5, 3 and 2 further down.
ODD = [(72, 64), (64, 40), (88, 56), (8, 24), (360, 136)]

PIPELINES: dict[str, Callable[[], Any]] = {
    "sd15": tiny.stable_diffusion,
    "sdxl": tiny.stable_diffusion_xl,
    "sd15 controlnet": tiny.stable_diffusion_controlnet,
    "sdxl controlnet": tiny.stable_diffusion_xl_controlnet,
    "digits": tiny.digits,
}


@functools.cache
def plain(name: str) -> Any:
    return PIPELINES[name]()


@functools.cache
def cached(name: str, backend: str = "onnxruntime") -> Any:
    components = ("controlnet",) if "controlnet" in name else ()
    return DeepCachePipeline.from_pipe(plain(name), backend=backend, components=components, cache_interval=1)


def of_size(name: str, height: int, width: int) -> dict[str, Any]:
    """The arguments of a call."""
    if "controlnet" in name:
        whole = control(height=height + 16, width=width + 16)
        return {"image": whole[..., :height, :width], "height": height, "width": width}
    return {"height": height, "width": width}


@pytest.mark.parametrize(("height", "width"), ODD)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name == "sdxl controlnet" else name for name in PIPELINES],
)
def test_interval_1_is_plain_diffusers(name: str, height: int, width: int) -> None:
    cached(name).set_cache_params(cache_interval=1, cache_branch_id=0)
    call = of_size(name, height, width)
    found = draw(cached(name), steps=3, **call)
    assert found.shape[2:] == (height // 8, width // 8)
    assert difference(found, draw(plain(name), steps=3, **call)) <= WITHIN


@pytest.mark.parametrize("branch", [0, 1, 4, 5, -1])
@pytest.mark.parametrize("name", PIPELINES)
def test_cached_images_are_those_of_hooks_on_the_real_unet(name: str, branch: int) -> None:
    """Both ways: run by the loop where the pipeline lets it, and step by step."""
    branch %= sum(len(block.resnets) for block in plain(name).unet.up_blocks)
    cached(name).set_cache_params(cache_interval=2, cache_branch_id=branch)
    call = of_size(name, 72, 104)
    with cached_by_hooks(plain(name).unet, lambda call: call % 2 == 0, branch=branch):
        expected = draw(plain(name), **call)
    assert difference(draw(cached(name), **call), expected) <= WITHIN
    stepped = draw(cached(name), **call, callback_on_step_end=functools.partial(python_between_steps))
    assert difference(stepped, expected) <= WITHIN
    assert difference(draw(plain(name), **call), expected) > 1e-3  # the cache does change the picture


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # of modules that torch's compiler imports
@pytest.mark.parametrize(
    "backend", ["torch", "openvino", pytest.param("torch-compile", marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_every_backend_takes_them_in_turn_with_others(backend: str) -> None:
    pipe = cached("digits", backend)
    for height, width in [(32, 64), (72, 40), (64, 64), (72, 40)]:
        expected = draw(plain("digits"), steps=3, height=height, width=width)
        assert difference(draw(pipe, steps=3, height=height, width=width), expected) <= WITHIN


@pytest.mark.parametrize("kind", [StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline])
def test_images_of_such_sizes_are_edited(kind: Any) -> None:
    before: Any = kind(**plain("sd15").components, requires_safety_checker=False)
    before.set_progress_bar_config(disable=True)
    pipe = DeepCachePipeline.from_pipe(before, cache_interval=1, components=())
    call: dict[str, Any] = {"image": micro.picture(2, 72, 40), "strength": 0.8}
    if kind is StableDiffusionInpaintPipeline:
        call |= {"mask_image": torch.ones(1, 1, 72, 40), "height": 72, "width": 40}
    assert difference(draw(pipe, **call), draw(before, **call)) <= WITHIN
    assert pipe.last_run.way == "whole loop"


def test_videos_of_such_sizes() -> None:
    svd = micro.STRAIGHT["svd"]
    before = svd.new(unet=tiny.denoiser("svd"))
    pipe = DeepCachePipeline.from_pipe(before, cache_interval=1, components=())
    call: dict[str, Any] = {"height": 72, "width": 40, "num_inference_steps": 3}
    for interval in (1, 2):
        pipe.set_cache_params(cache_interval=interval)
        with cached_by_hooks(before.unet, lambda call: call % interval == 0):  # noqa: B023  # called within this turn
            expected = micro.draw(before, svd, **call)
        assert difference(micro.draw(pipe, svd, **call), expected) <= WITHIN * expected.abs().max()
    assert expected.shape[3:] == (9, 5)


@pytest.mark.parametrize("tiled", [False, True])
def test_decoders_take_them_whole_and_in_tiles(tiled: bool) -> None:
    before = tiny.stable_diffusion()
    pipe = DeepCachePipeline.from_pipe(before, cache_interval=1, components=("vae",))
    call: dict[str, Any] = {"height": 136, "width": 72, "num_inference_steps": 2, "output_type": "pt"}
    before.vae.use_tiling = tiled
    try:
        pictures = [each("seven", generator=torch.Generator().manual_seed(0), **call).images for each in (before, pipe)]
    finally:
        before.vae.use_tiling = False
    assert difference(*pictures) <= WITHIN
