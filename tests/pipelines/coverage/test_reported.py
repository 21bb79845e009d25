"""What users of the DeepCache package reported, named by what they saw, and beside it what the package does.

The numbers are those of the issues of horseee/DeepCache.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import DeepCache
import diffusers
import pytest
import torch
from peft import LoraConfig

import deepcache_trt.pipelines
from deepcache_trt import DeepCachePipeline, DeepCacheSDHelper
from deepcache_trt.errors import UnsupportedError
from tests import tiny
from tests.pipelines.contract.families import (
    FAMILIES,
    INTERVAL,
    WITHIN,
    drawn,
    expected,
    on_engines,
    tolerance,
)
from tests.pipelines.drawing import difference
from tests.pipelines.drawing import draw as draw_two
from tests.pipelines.micro import cached, draw, with_own
from tests.pipelines.weights.own_models import fresh
from tests.reference import cached_by_package

STEPS = 6


def new(name: str, scheduler: str | None = None, **options: Any) -> Any:
    """A pipeline of diffusers with a U-Net of its own, which hooks and adapters may change."""
    pipe = with_own(FAMILIES[name], "unet")
    if scheduler:
        pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config, **options)
    return pipe


def picture(pipe: Any, name: str, **call: Any) -> torch.Tensor:
    return draw(pipe, FAMILIES[name], **{"num_inference_steps": STEPS, **call})


@contextmanager
def ours(pipe: Any, interval: int = INTERVAL) -> Iterator[DeepCacheSDHelper]:
    """Our helper in the place of the package's."""
    helper = DeepCacheSDHelper(pipe=pipe, backend="onnxruntime")
    helper.set_params(cache_interval=interval, cache_branch_id=0)
    helper.enable()
    try:
        yield helper
    finally:
        helper.disable()


# "Model offload distorts every image after the first" (#23, #50); more of it in test_offload.py.


def test_offload_distorts_every_image_after_the_first() -> None:
    pipe = fresh()
    pipe.enable_model_cpu_offload(device="cpu")
    with cached_by_package(pipe, interval=INTERVAL):
        first, second = picture(pipe, "sd"), picture(pipe, "sd")
    assert difference(first, second) > 1, "the package"
    with pytest.raises(UnsupportedError, match=r"unet are moved by .*remove_all_hooks"), ours(pipe):
        pass


# "Quality drifts after changing parameters without disable and enable" (#54).


def test_parameters_may_change_without_disable_and_enable() -> None:
    pipe = new("sd")
    with ours(pipe, 1) as helping:
        plain_picture = picture(pipe, "sd")
        helping.set_params(cache_interval=4)
        changed = picture(pipe, "sd")
        helping.enable()  # twice is once
        helping.set_params(cache_interval=1)
        assert torch.equal(picture(pipe, "sd"), plain_picture)
    with ours(pipe, 4):
        assert torch.equal(picture(pipe, "sd"), changed)
    assert difference(picture(pipe, "sd"), plain_picture) <= WITHIN
    assert difference(changed, plain_picture) > 1e-2


# "Image to image with another strength starts on a stale cache".

STRENGTHS = [(1.0, 10), (0.3, 10), (0.02, 50), (0.3, 10), (1.0, 10), (0.02, 50)]


@pytest.mark.parametrize("name", ["sd img2img", "sdxl img2img", "sd controlnet img2img", "sdxl controlnet img2img"])
def test_strengths_in_a_row_equal_those_of_fresh_pipelines(name: str) -> None:
    """Of 50 steps a strength of 0.02 leaves one."""
    used = cached(FAMILIES[name])
    opened = None
    for strength, steps in STRENGTHS:
        call = {"strength": strength, "num_inference_steps": steps}
        ours = picture(used, name, **call)
        opened = opened or used._cached_denoiser.session
        assert used._cached_denoiser.session is opened, "nothing is built or opened for another strength"
        assert len(used.last_run.plan) == max(1, round(strength * steps))
        assert torch.equal(ours, picture(cached(FAMILIES[name], build="never"), name, **call))
        assert difference(drawn(name, interval=1, **call), expected(name, **call)) <= WITHIN
        assert (difference(ours, expected(name, **call)) > 1e-2) == (len(used.last_run.plan) > 1)


def test_the_package_takes_the_deep_features_of_the_strength_before() -> None:
    name, pictures = "sd img2img", []
    for strengths in ((0.3,), (1.0, 0.3)):
        pipe = new(name)
        with cached_by_package(pipe, interval=INTERVAL):
            pictures.append([picture(pipe, name, strength=one, num_inference_steps=10) for one in strengths][-1])
    assert difference(*pictures) > 1e-2


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_an_image_is_edited_after_one_from_a_text_on_the_same_models(family: str) -> None:
    text, edit = family, f"{family} img2img"
    used = cached(FAMILIES[text])
    image_class = getattr(deepcache_trt.pipelines, f"DeepCache{FAMILIES[edit].pipeline}")
    editing = image_class.from_pipe(used, backend="onnxruntime", components=(), build="never")
    editing.set_progress_bar_config(disable=True)
    first = picture(used, text)
    sessions = []
    for strength in (1.0, 0.3, 1.0):
        fresh = picture(cached(FAMILIES[edit]), edit, strength=strength)
        assert torch.equal(picture(editing, edit, strength=strength), fresh)
        assert torch.equal(picture(used, text), first)
        sessions.append((used._cached_denoiser.session, editing._cached_denoiser.session))
    assert len(set(sessions)) == 1, "nothing is opened again"


# "A timestep by keyword crashes".


def test_a_timestep_may_be_given_by_keyword() -> None:
    pipe = new("sd")
    pipe.scheduler.set_timesteps(STEPS)
    generator = torch.Generator().manual_seed(0)
    call = {"encoder_hidden_states": torch.randn(1, 5, 32, generator=generator), "return_dict": False}
    sample, timestep = torch.randn(1, 4, 8, 8, generator=generator), pipe.scheduler.timesteps[0]
    with torch.no_grad():
        expected_noise = pipe.unet(sample, timestep, **call)[0]
        with cached_by_package(pipe, interval=INTERVAL), pytest.raises(IndexError):
            pipe.unet(sample, timestep=timestep, **call)
        with ours(pipe):
            assert difference(pipe.unet(sample, timestep=timestep, **call)[0], expected_noise) <= WITHIN
            assert difference(pipe.unet(sample=sample, timestep=timestep, **call)[0], expected_noise) <= WITHIN


# "Samplers that repeat timesteps are cached in another rhythm than asked for".


@pytest.mark.parametrize(
    ("scheduler", "options", "theirs"),
    [("PNDMScheduler", {"skip_prk_steps": True}, 4), ("HeunDiscreteScheduler", {}, 1)],
)
def test_repeated_timesteps_do_not_change_the_rhythm(scheduler: str, options: dict[str, Any], theirs: int) -> None:
    pipe = new("sd", scheduler, **options)
    full: list[Any] = []
    hook = pipe.unet.mid_block.attentions[0].register_forward_hook(lambda *_: full.append(1))
    with cached_by_package(pipe, interval=2):
        picture(pipe, "sd", num_inference_steps=9)
    hook.remove()
    calls = len(pipe.scheduler.timesteps)
    assert len(full) == theirs, "the package looks timesteps up"
    assert calls > 2 * theirs
    cached_pipe = DeepCachePipeline.from_pipe(pipe, cache_interval=2, backend="onnxruntime", components=())
    reference = DeepCachePipeline.from_pipe(pipe, cache_interval=2, backend="torch", components=())
    pictures = [picture(each, "sd", num_inference_steps=9) for each in (cached_pipe, reference)]
    assert difference(*pictures) <= tolerance(pictures[0])
    assert cached_pipe.last_run.plan.full_steps == tuple(range(0, calls, 2))


# "Sizes of tensors must match: expected 45 but got 46".


def test_a_size_that_the_unet_has_to_round_is_drawn_as_in_diffusers() -> None:
    plain = tiny.stable_diffusion()
    pipe = DeepCachePipeline.from_pipe(plain, components=(), cache_interval=1)
    assert difference(draw_two(pipe, height=360, width=360), draw_two(plain, height=360, width=360)) <= WITHIN


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd controlnet"])
def test_a_unet_that_halves_nothing_takes_every_size(name: str) -> None:
    call: dict[str, Any] = {"height": 360, "width": 72}
    if name == "sd controlnet":
        call["image"] = torch.nn.functional.interpolate(FAMILIES[name].call["image"], (360, 72))
    assert difference(drawn(name, interval=1, **call), expected(name, **call)) <= WITHIN
    assert expected(name, **call).shape == (1, 4, 45, 9)


# "Bad with ancestral and SDE samplers unless the first steps stay full" (#9, #20), "a start and an end" (#12).


@pytest.mark.parametrize("scheduler", ["EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_the_first_and_the_last_steps_may_stay_full(scheduler: str) -> None:
    theirs = new("sd", scheduler)
    pipe = DeepCachePipeline.from_pipe(theirs, backend="onnxruntime", components=(), cache_interval=10)
    pipe.set_cache_params(disable_cache_before_step=4, disable_cache_after_step=7)
    kept: dict[Any, list[torch.Tensor]] = {theirs: [], pipe: []}

    def keep(pipe: Any, i: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        kept[pipe].append(tensors["latents"])
        return {}

    for each in kept:
        last = picture(each, "sd", num_inference_steps=9, callback_on_step_end=keep)
    assert pipe.last_run.plan.variants == ("full",) * 4 + ("shallow",) * 3 + ("full",) * 2
    distances = [difference(*pair) / tolerance(pair[0]) for pair in zip(*kept.values(), strict=True)]
    assert max(distances[:4]) <= 1, "the protected steps are those of plain diffusers"
    assert min(distances[4:]) > 10
    assert difference(picture(pipe, "sd", num_inference_steps=9), last) <= tolerance(last)
    assert pipe.last_run.way == "whole loop"
    pipe.set_cache_params(disable_cache_before_step=9)
    assert difference(picture(pipe, "sd", num_inference_steps=9), kept[theirs][-1]) <= tolerance(last)


def test_the_package_has_no_start_and_no_end() -> None:
    with pytest.raises(TypeError, match="disable_cache_before_step"):
        DeepCache.DeepCacheSDHelper().set_params(cache_interval=3, disable_cache_before_step=4)


# "ControlNet" (#4, #21).


@pytest.mark.parametrize("name", ["sd controlnet", "sdxl controlnet"])
def test_cached_steps_are_controlled_too(name: str) -> None:
    """By the control image of their own step: here one that changes after the only full step."""

    def change(pipe: Any, i: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"image": 20 * tensors["image"]} if i == 0 else {}

    changed = drawn(name, interval=10, callback_on_step_end=change, callback_on_step_end_tensor_inputs=["image"])
    assert on_engines(name).last_run.plan.full_steps == (0,)
    assert difference(changed, drawn(name, interval=10)) > 10 * WITHIN


# "LoRA": more of it in test_adapters.py.


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lora_counts_whether_it_comes_before_or_after_the_cache(when: str) -> None:
    pipe = new("sd")
    without = picture(pipe, "sd")

    def add() -> None:
        pipe.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False))

    torch.manual_seed(0)
    if when == "before":
        add()
    with ours(pipe, 1) as helping:
        if when == "after":
            assert difference(picture(pipe, "sd"), without) <= WITHIN
            add()
        with_lora = picture(pipe, "sd")
        helping.set_params(cache_interval=INTERVAL)
        assert difference(picture(pipe, "sd"), with_lora) > 1e-2
    assert difference(with_lora, picture(pipe, "sd")) <= WITHIN
    assert difference(with_lora, without) > 1e-3
