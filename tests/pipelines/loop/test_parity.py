"""The product's promise: the same pictures, by the same seed, as plain diffusers and as the DeepCache package."""

from typing import Any

import DeepCache
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler

from deepcache_trt import DeepCachePipeline, DeepCacheSDHelper
from deepcache_trt.errors import BackendError
from tests import tiny
from tests.pipelines.drawing import difference, draw, record_runs
from tests.reference import cached_by_package

SIZES = [(64, 64), (128, 64), (192, 128)]


@pytest.fixture(scope="module", params=tiny.PIPELINES)
def plain(request: pytest.FixtureRequest) -> Any:
    return tiny.PIPELINES[request.param]()


@pytest.fixture(scope="module")
def cached(plain: Any) -> Any:
    return DeepCachePipeline.from_pipe(plain, cache_interval=1)


@pytest.mark.parametrize("guidance", [1.0, 7.5])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_interval_1_is_plain_diffusers(plain: Any, cached: Any, height: int, width: int, guidance: float) -> None:
    cached.set_cache_params(cache_interval=1, cache_branch_id=0)
    call: dict[str, Any] = {"height": height, "width": width, "guidance_scale": guidance}
    assert difference(draw(plain, **call), draw(cached, **call)) <= 1e-4


@pytest.mark.parametrize(("interval", "branch"), [(2, 0), (3, 0), (5, 0), (3, 1), (2, 4), (4, 7)])
def test_cached_images_are_those_of_the_deepcache_package(plain: Any, cached: Any, interval: int, branch: int) -> None:
    with cached_by_package(plain, interval=interval, branch=branch):
        expected = draw(plain)
    cached.set_cache_params(cache_interval=interval, cache_branch_id=branch)
    assert difference(expected, draw(cached)) <= 1e-4
    assert difference(expected, draw(plain)) > 1e-3  # the cache does change the picture


def test_the_helper_changes_one_import(plain: Any) -> None:
    images = []
    for helper_class in (DeepCache.DeepCacheSDHelper, DeepCacheSDHelper):
        helper = helper_class(pipe=plain)
        helper.set_params(cache_interval=3, cache_branch_id=0)
        helper.enable()
        images.append(draw(plain))
        helper.disable()
    assert difference(*images) <= 1e-4


def test_disable_gives_the_model_its_own_forward_back() -> None:
    plain = tiny.stable_diffusion()
    plain.unet.__dict__.pop("forward", None)  # the package leaves one behind
    helper = DeepCacheSDHelper(pipe=plain)
    helper.enable()
    assert "forward" in vars(plain.unet)
    helper.disable()
    assert "forward" not in vars(plain.unet)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # of modules that torch's compiler imports
@pytest.mark.parametrize("backend", ["openvino", pytest.param("torch-compile", marks=pytest.mark.slow)])
def test_compiled_backends_draw_the_images_of_the_reference(plain: Any, backend: str) -> None:
    options: dict[str, Any] = {"cache_interval": 2, "components": ("unet",)}
    expected = draw(DeepCachePipeline.from_pipe(plain, backend="torch", **options))
    cached = DeepCachePipeline.from_pipe(plain, backend=backend, **options)
    assert difference(draw(cached), expected) <= 1e-4
    assert difference(draw(cached), expected) <= 1e-4
    assert difference(draw(cached, callback_on_step_end=lambda *given: given[-1]), expected) <= 1e-4


@pytest.mark.parametrize("skip_interval", [None, 1, 2])
@pytest.mark.parametrize("forecast", [None, "taylor1"])
def test_forecasts_and_skipped_calls_are_the_same_both_ways(
    plain: Any, cached: Any, forecast: str | None, skip_interval: int | None
) -> None:
    options: dict[str, Any] = {"cache_interval": 3, "forecast": forecast, "skip_interval": skip_interval}
    cached.set_cache_params(cache_branch_id=0, **options)
    looped = draw(cached, steps=8)
    assert cached.last_run.way == "whole loop"
    stepped = draw(cached, steps=8, callback_on_step_end=lambda *given: given[-1])
    assert cached.last_run.way == "per step"
    cached.set_cache_params(forecast=None, skip_interval=None)
    assert difference(looped, stepped) <= 1e-5 * looped.abs().max()
    assert (difference(looped, draw(cached, steps=8)) > 1e-3) == bool(forecast or skip_interval)


def test_bfloat16_runs_on_the_reference_and_is_refused_by_onnxruntime_on_the_cpu() -> None:
    plain: Any = DDPMPipeline(tiny.new_denoiser("ddpm").to(torch.bfloat16), DDPMScheduler())
    plain.set_progress_bar_config(disable=True)

    def sample(pipe: Any) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        images: torch.Tensor = pipe(generator=generator, num_inference_steps=4, output_type="pt").images
        return images

    reference = DeepCachePipeline.from_pipe(plain, cache_interval=1, backend="torch")
    assert torch.equal(sample(reference), sample(plain))
    with pytest.raises(BackendError, match="no bfloat16 on the CPU; use float32 there, or backend 'openvino'"):
        sample(DeepCachePipeline.from_pipe(plain, backend="onnxruntime"))


def test_a_schedule_of_full_steps_runs_those_and_no_others(
    plain: Any, cached: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached.set_cache_params(cache_branch_id=0, full_steps=(0, 1, 4))
    draw(cached)
    ran = record_runs(cached._cached_denoiser.session.engines, monkeypatch)
    draw(cached)
    cached.set_cache_params(full_steps=None)
    assert ran == ["full", "full", "shallow", "shallow", "full", "shallow"]
