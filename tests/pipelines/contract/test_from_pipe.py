"""One pipeline from another on the same models: plain and cached, of one task and of another."""

import inspect
from typing import Any

import diffusers
import pytest
import torch
from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting, AutoPipelineForText2Image

import deepcache_trt.pipelines
from deepcache_trt import DeepCachePipeline
from tests.pipelines.contract.families import (
    FAMILIES,
    FEW,
    INTERVAL,
    drawn,
    every_family,
    expected,
    on_engines,
    plain,
    plain_class,
    quiet,
)
from tests.pipelines.drawing import difference
from tests.pipelines.micro import cached, draw, engines

AUTO = {"text": AutoPipelineForText2Image, "image": AutoPipelineForImage2Image, "mask": AutoPipelineForInpainting}
OURS = {"_cached_denoiser", "_live_components", "_cache_enabled", "last_run"}


def picture(pipe: Any, name: str) -> torch.Tensor:
    return draw(quiet(pipe), FAMILIES[name], num_inference_steps=FEW)


@every_family
def test_there_and_back_again(name: str) -> None:
    theirs = plain(name)
    ours = DeepCachePipeline.from_pipe(theirs, cache_interval=INTERVAL, **engines(FAMILIES[name]))
    back = type(theirs).from_pipe(ours, dtype=torch.float32)
    assert torch.equal(picture(ours, name), drawn(name))
    assert type(back) is type(theirs)
    assert not OURS & set(vars(back))
    assert {id(model) for model in back.components.values()} == {id(model) for model in theirs.components.values()}
    assert torch.equal(picture(back, name), expected(name))


@every_family
def test_components_make_a_pipeline_of_either_kind(name: str) -> None:
    theirs, ours = FAMILIES[name].new(), cached(FAMILIES[name])
    assert ours.components.keys() == theirs.components.keys()
    options = {
        key: value
        for key, value in FAMILIES[name].options.items()
        if key not in theirs.components and key in inspect.signature(type(theirs).__init__).parameters
    }
    plain_again = type(theirs)(**ours.components, **options)
    cached_again = type(ours)(**theirs.components, **options)
    assert type(plain_again) is type(theirs)
    assert torch.equal(picture(plain_again, name), expected(name))
    assert cached_again.unet is theirs.unet
    assert cached_again.cache_params.cache_interval == INTERVAL
    assert isinstance(cached_again, DeepCachePipeline)


@pytest.mark.parametrize("task", AUTO)
@every_family
def test_the_task_changes_as_in_plain_diffusers(name: str, task: str) -> None:
    theirs, ours = (AUTO[task].from_pipe(pipe) for pipe in (plain(name), on_engines(name)))
    assert type(ours) is type(theirs)
    assert not OURS & set(vars(ours))
    again = getattr(deepcache_trt.pipelines, f"DeepCache{type(theirs).__name__}").from_pipe(
        ours, **engines(FAMILIES[name])
    )
    assert isinstance(again, type(theirs))
    assert again.unet is plain(name).unet


TASKS = {
    "sd": ("sd", "sd img2img", "sd unmasked inpaint"),
    "sdxl": ("sdxl", "sdxl img2img"),
    "sd controlnet": ("sd controlnet", "sd controlnet img2img", "sd controlnet inpaint"),
    "sdxl controlnet": ("sdxl controlnet", "sdxl controlnet img2img"),
}


@pytest.mark.parametrize("first", TASKS)
def test_one_task_after_another_on_the_same_models(first: str) -> None:
    """From each pipeline the next, twice round: each draws what a pipeline of its own draws, and builds nothing."""
    pipes = {first: cached(FAMILIES[first])}
    picture(pipes[first], first)
    for name, task in zip(TASKS[first][1:], TASKS[first], strict=False):
        kind = getattr(deepcache_trt.pipelines, f"DeepCache{plain_class(name).__name__}")
        pipes[name] = kind.from_pipe(pipes[task], build="never", **engines(FAMILIES[name]))
        assert pipes[name].unet is pipes[first].unet
        assert pipes[name].scheduler is pipes[first].scheduler
    for _ in range(2):
        for name, pipe in pipes.items():
            assert torch.equal(picture(pipe, name), drawn(name))
            assert difference(drawn(name), expected(name)) > 1e-2


def test_a_change_of_task_leaves_the_first_pipeline_as_it_is() -> None:
    first = cached(FAMILIES["sd"])
    before = picture(first, "sd")
    second = deepcache_trt.pipelines.DeepCacheStableDiffusionImg2ImgPipeline.from_pipe(first, cache_interval=2)
    assert type(second).__mro__[2] is diffusers.StableDiffusionImg2ImgPipeline
    assert (first.cache_params.cache_interval, second.cache_params.cache_interval) == (INTERVAL, 2)
    assert torch.equal(picture(first, "sd"), before)
