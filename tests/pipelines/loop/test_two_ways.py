"""The whole loop makes the image of the pipeline's own loop: every scheduler, every pipeline, every kind of call."""

import contextlib
import functools
import inspect
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import diffusers
import pytest
import torch

from deepcache_trt import DeepCacheSDHelper
from tests.pipelines.drawing import python_between_steps
from tests.pipelines.micro import MICROS, OTHERS, STRAIGHT, cached, draw, like_the_own
from tests.runtime.schedulers import BROWNIAN, CLIPPING, FALLBACKS, ROUNDING, STEPS, TABLES, WARNINGS, Case

pytestmark = WARNINGS

WITHIN = 1e-5  # of the largest value, in float32
FEW = 5  # full, cached, cached, full, cached
INTERVAL = 3
# They have U-Nets that no other has, and the export of one takes as long as all else that is done with it.
SLOW = ("sd distilled", "sd upscale", "lcm", "lcm img2img", "instruct pix2pix")


def a_case(name: str, *rest: Any) -> Any:
    """A case of a test whose first argument is the name of a pipeline."""
    shown = [name, *(_text(value) if isinstance(value, Mapping) else str(value) for value in rest)]
    return pytest.param(name, *rest, id="-".join(shown), marks=[pytest.mark.slow] if name in SLOW else [])


def _text(call: Mapping[str, Any]) -> str:
    return ",".join(f"{name}={'…' if isinstance(value, torch.Tensor) else value}" for name, value in call.items())


@functools.cache
def pipeline(name: str) -> Any:
    """One for all tests, which give it their scheduler and parameters."""
    return cached(MICROS[name])


def by_its_own_loop(name: str, **call: Any) -> torch.Tensor:
    """The same call of `pipeline(name)` again, with the pipeline's loop, which asks the denoiser step by step."""
    pipe = pipeline(name)
    if "callback_on_step_end" in inspect.signature(type(pipe).__call__).parameters:
        image = draw(pipe, MICROS[name], callback_on_step_end=python_between_steps, **call)
        assert pipe.last_run.reason == "callback_on_step_end wants Python between the steps"
        return image
    plain = MICROS[name].new()
    plain.scheduler = pipe.scheduler
    helper = DeepCacheSDHelper(plain, backend="onnxruntime")  # which has no other way
    helper.set_params(cache_interval=pipe.cache_params.cache_interval)
    helper.enable()
    try:
        return draw(plain, MICROS[name], **call)
    finally:
        helper.disable()


def compare(name: str, scheduler: Any = None, *, per_step: str | None = None, **call: Any) -> torch.Tensor:
    """The image of a call, once it is known to go the way that it should and to equal that of the pipeline's own loop.

    Args:
        name: of the pipeline.
        scheduler: None: the pipeline's own.
        per_step: how the reason begins for not running the whole loop; None: the whole loop is what should run.
        call: of the pipeline.
    """
    pipe = pipeline(name)
    pipe.scheduler = scheduler or MICROS[name].new().scheduler
    pipe.set_cache_params(cache_interval=INTERVAL, full_steps=None)
    call = {"num_inference_steps": FEW, **call}
    image, run = draw(pipe, MICROS[name], **call), pipe.last_run
    assert run.way == ("per step" if per_step else "whole loop"), run.reason
    assert run.reason.startswith(per_step or "")
    assert len(set(run.plan.variants)) == min(2, len(run.plan)), "nothing is cached"
    own = by_its_own_loop(name, **call)
    assert pipe.last_run.plan == run.plan
    assert own.isfinite().all()
    assert (image - own).abs().max() <= WITHIN * own.abs().max()
    return image


def scheduler_of(name: str, case: Case) -> Any:
    return getattr(diffusers.schedulers, name)(**case.options)


def steps_of(case: Case) -> int:
    return FEW if case.steps == STEPS else case.steps[0]


def fits(name: str, case: Case) -> bool:
    """Whether pipelines around a U-Net can use it: they read these attributes, and give `step` no more than this."""
    if name in _BROWNIAN:
        return True  # not to be constructed where torchsde is not installed
    if case.unused:
        return False  # pipelines go through all timesteps
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `pytestmark` does not reach the collection of tests
        scheduler, _ = case.scheduler(name, case.steps[-1])
    if not all(hasattr(scheduler, attribute) for attribute in ("order", "init_noise_sigma", "step")):
        return False
    step = inspect.signature(scheduler.step).parameters.values()
    return [p.name for p in step if p.default is p.empty] == ["model_output", "timestep", "sample"]


_BROWNIAN = [name for name, fallback in FALLBACKS.items() if fallback.why == BROWNIAN]
SAMPLERS = [
    pytest.param(name, case, id=f"{name}-{case}")
    for name, cases in TABLES.items()
    for case in cases
    if fits(name, case)
]
# A scheduler without a table, and how its reason goes on.
WITHOUT_TABLE = [
    *((name, fallback.case, fallback.says) for name, fallback in FALLBACKS.items() if fits(name, fallback.case)),
    *((name, case, "it clips the image that it predicts") for name, case in CLIPPING.values()),
    *((name, case, "it is not linear, or rounds a lot") for name, case in ROUNDING.items()),
]

# Every scheduler, every pipeline.


@pytest.mark.parametrize(("scheduler", "case"), SAMPLERS)
def test_every_scheduler(scheduler: str, case: Case) -> None:
    compare("sd", scheduler_of(scheduler, case), num_inference_steps=steps_of(case), **case.step)


@pytest.mark.parametrize(
    ("scheduler", "case", "says"), WITHOUT_TABLE, ids=[f"{name}-{case}" for name, case, _ in WITHOUT_TABLE]
)
def test_every_scheduler_without_a_table(scheduler: str, case: Case, says: str) -> None:
    if scheduler in _BROWNIAN:
        pytest.importorskip("torchsde")
    compare("sd", scheduler_of(scheduler, case), per_step=f"{scheduler}: {says}")


# Of those that draw noise, take two evaluations a step, and take several steps back. DDPMPipeline gives `step` a
# generator, whether it takes one or not, and asks for no scaled latents; others stand their own scheduler alone.
THREE = ("EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "DPMSolverMultistepScheduler")
FIXED: dict[str, tuple[str, ...]] = {
    "ddpm": ("DDPMScheduler", "DPMSolverMultistepScheduler", "SASolverScheduler"),
    **dict.fromkeys(("ddim", "lcm", "lcm img2img"), ()),
}
OF_PIXELS = ("ddpm", "ddim")


@pytest.mark.parametrize(
    ("name", "scheduler"),
    [a_case(name, other) for name in STRAIGHT for other in (None, *FIXED.get(name, THREE))],
)
def test_every_pipeline(name: str, scheduler: str | None) -> None:
    image = compare(name, like_the_own(MICROS[name], scheduler))
    pipeline(name).set_cache_params(cache_interval=1)
    uncached = draw(pipeline(name), STRAIGHT[name], num_inference_steps=FEW)
    assert (image - uncached).abs().max() > 1e-3 * image.abs().max(), "nothing that the model says reaches the image"


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in STRAIGHT if name not in ("sd", *FIXED)])
@pytest.mark.parametrize(("scheduler", "case"), SAMPLERS)
def test_every_scheduler_in_every_pipeline(name: str, scheduler: str, case: Case) -> None:
    sampler = scheduler_of(scheduler, case)
    if name.endswith(("img2img", "refiner", "unmasked inpaint")) and not hasattr(sampler, "add_noise"):
        pytest.skip(f"{scheduler} cannot start from an image")
    eta = case.step if name != "svd" else {}  # which takes none
    compare(name, sampler, num_inference_steps=steps_of(case), **eta)


@pytest.mark.parametrize("name", [a_case(name) for name in OTHERS])
def test_a_pipeline_with_more_between_its_steps_runs_its_own_loop(name: str) -> None:
    pipeline_class = OTHERS[name].pipeline
    compare(name, per_step=f"{pipeline_class} may do more between two steps than the loop knows")


# Every kind of call.

XL = [name for name in STRAIGHT if name.startswith("sdxl")]
PROMPTED = [name for name in STRAIGHT if name not in ("svd", *OF_PIXELS)]
FROM_AN_IMAGE = [name for name in PROMPTED if name.endswith(("img2img", "inpaint"))]
# The size of an image is its own.
OF_ANY_SIZE = [name for name in PROMPTED if not name.endswith(("img2img", "pix2pix", "upscale"))]

# They want an image for each prompt and image of it that they make.
NOT_TWICE = ("sd img2img", "lcm img2img", "instruct pix2pix")


def each(names: Iterable[str], **call: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(name, call) for name in names]


CALLS = [
    *each(PROMPTED, guidance_scale=1.0),
    *each(["svd"], min_guidance_scale=1.0, max_guidance_scale=1.0),
    *each(["svd"], min_guidance_scale=2.0, max_guidance_scale=7.0),
    *each(["sd", *XL], guidance_scale=12.0, guidance_rescale=0.7),
    *each(["sd", *XL], guidance_scale=1.0, guidance_rescale=0.7),
    *each(["sd", "sd distilled", "sdxl", "ddpm"], num_inference_steps=1),
    *each(["svd"], num_inference_steps=25),
    *each([*OF_ANY_SIZE, "svd"], height=128, width=64),
    *each([name for name in PROMPTED if name not in NOT_TWICE], num_images_per_prompt=2),
    *each(["sd img2img"], prompt=["seven", "one"], image=torch.linspace(0, 1, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64)),
    *each(["svd"], num_videos_per_prompt=2),
    *each(OF_PIXELS, batch_size=2),
    *each(["ddim"], eta=0.5),
    *each(["ddim"], eta=1.0, use_clipped_model_output=True),
    *each(["sd", "sdxl"], negative_prompt="a drawing"),
    *each(FROM_AN_IMAGE, strength=0.4, num_inference_steps=10),
    *each(FROM_AN_IMAGE, strength=1.0),
    *each(["sdxl"], denoising_end=0.5, num_inference_steps=10),
    *each(["sdxl img2img", "sdxl inpaint"], denoising_end=0.5, strength=1.0, num_inference_steps=10),
    *each(["sdxl img2img"], denoising_start=0.5, num_inference_steps=10),
]


@pytest.mark.parametrize(
    ("name", "call", "scheduler"),
    [
        a_case(name, call, scheduler)
        for name, call in CALLS
        for scheduler in (None, *THREE[:2])
        if name not in FIXED or scheduler is None
    ],
)
def test_every_kind_of_call(name: str, call: dict[str, Any], scheduler: str | None) -> None:
    compare(name, like_the_own(MICROS[name], scheduler), **call)


@pytest.mark.parametrize("name", [a_case(name) for name in PROMPTED if name not in FIXED])
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_eta(name: str, eta: float) -> None:
    for scheduler in (diffusers.DDIMScheduler(clip_sample=False), diffusers.TCDScheduler()):
        compare(name, scheduler, eta=eta)


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", *THREE, "LCMScheduler", "UniPCMultistepScheduler"])
@pytest.mark.parametrize("name", ["sd", "sdxl", "sdxl img2img", "sdxl inpaint"])
def test_a_generator_for_each_image(name: str, scheduler: str) -> None:
    compare(name, like_the_own(MICROS[name], scheduler), num_images_per_prompt=2, seed=[4, 5], eta=1.0)


@pytest.mark.parametrize(
    "scheduler", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "LCMScheduler", "HeunDiscreteScheduler"]
)
@pytest.mark.parametrize("name", ["sd", "sd img2img", "sdxl", "sdxl inpaint"])
def test_timesteps_of_ones_own(name: str, scheduler: str) -> None:
    compare(name, like_the_own(MICROS[name], scheduler), timesteps=[999, 899, 759, 499, 259])


@pytest.mark.parametrize("name", ["sd", "sd img2img", "sdxl", "sdxl img2img", "svd"])
def test_noise_levels_of_ones_own(name: str) -> None:
    compare(name, like_the_own(MICROS[name], "EulerDiscreteScheduler"), sigmas=[14.6, 7.0, 3.0, 1.0, 0.3])


@pytest.mark.parametrize("scheduler", [None, *THREE])
def test_a_refiner_goes_on_where_the_base_ends(scheduler: str | None) -> None:
    call: dict[str, Any] = {"num_inference_steps": 10}
    base = compare("sdxl", like_the_own(MICROS["sdxl"], scheduler), denoising_end=0.6, **call)
    compare("sdxl img2img", like_the_own(MICROS["sdxl"], scheduler), denoising_start=0.6, image=base, **call)


def test_one_step_from_the_noise_of_svd_runs_the_pipelines_own_loop() -> None:
    compare("svd", per_step="EulerDiscreteScheduler: it is not linear, or rounds a lot", num_inference_steps=1)


@pytest.mark.parametrize("scheduler", [None, *THREE])
def test_a_part_in_the_middle_of_the_schedule(scheduler: str | None) -> None:
    call: dict[str, Any] = {"denoising_start": 0.3, "denoising_end": 0.7, "num_inference_steps": 20}
    compare("sdxl img2img", like_the_own(MICROS["sdxl"], scheduler), **call)


@pytest.mark.parametrize("name", [a_case(name) for name in PROMPTED])
def test_the_old_callback_sees_the_latents_of_every_step(name: str) -> None:
    seen: list[torch.Tensor] = []

    def callback(i: int, t: Any, latents: torch.Tensor) -> None:
        seen.append(latents)

    pipe = pipeline(name)
    pipe.scheduler = like_the_own(MICROS[name], None)
    new = "callback_on_step_end" in inspect.signature(type(pipe).__call__).parameters
    with pytest.warns(FutureWarning, match="callback") if new else contextlib.nullcontext():
        draw(pipe, MICROS[name], num_inference_steps=FEW, callback=callback, callback_steps=1)
    assert pipe.last_run.reason == "callback wants Python between the steps"
    assert len({latents.sum().item() for latents in seen}) == len(seen) == len(pipe.last_run.plan)
