"""A plan file in the place of options: the same pictures, everywhere that the options are taken."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from deepcache_trt import DeepCachePipeline, DeepCacheSDHelper
from deepcache_trt.errors import DeepCacheError, UnknownNameError
from deepcache_trt.models.catalogue import resolve
from deepcache_trt.runtime.policies.deepcache import DeepCache
from deepcache_trt.runtime.policies.plan_file import PlanFile, read_plan, write_plan
from tests import tiny

PARAMS = DeepCache(cache_interval=4, cache_branch_id=1, forecast="taylor1", disable_cache_before_step=2)
_ENGINES: dict[str, Any] = {"backend": "onnxruntime", "components": ()}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plans") / "plan.json"
    write_plan(path, PlanFile(policy=PARAMS, about={"model": "digits", "steps": 6}))
    return path


def draw(pipe: Any) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    latents: torch.Tensor = pipe(
        "a handwritten five", num_inference_steps=6, generator=generator, output_type="latent"
    ).images
    return latents


def _pretrained(file: Path) -> Any:
    return DeepCachePipeline.from_pretrained(resolve("digits"), dtype=torch.float32, plan=file, **_ENGINES)


def _from_pipe(file: Path) -> Any:
    return DeepCachePipeline.from_pipe(tiny.digits(), plan=str(file), **_ENGINES)


def _set(file: Path) -> Any:
    pipe = DeepCachePipeline.from_pipe(tiny.digits(), cache_interval=2, skip_interval=1, **_ENGINES)
    pipe.set_cache_params(plan=file)  # of what was set before nothing is left
    return pipe


def _helper(file: Path) -> Any:
    helper = DeepCacheSDHelper(tiny.digits(), backend="onnxruntime")
    helper.set_params(**asdict(read_plan(file).policy))
    helper.enable()
    return helper.pipe


@pytest.mark.parametrize("load", [_pretrained, _from_pipe, _set, _helper])
def test_a_plan_file_is_the_same_as_its_fields(load: Callable[[Path], Any], file: Path) -> None:
    fields = DeepCachePipeline.from_pipe(tiny.digits(), **asdict(PARAMS), **_ENGINES)
    drawn = draw(fields)
    torch.testing.assert_close(draw(load(file)), drawn, atol=1e-4, rtol=0)  # the helper leaves the loop to the pipeline
    fields.set_cache_params(**asdict(DeepCache()))
    assert (draw(fields) - drawn).abs().max() > 1e-2


def test_a_plan_file_and_its_fields_together_are_refused(file: Path) -> None:
    message = r"plan\.json says how to cache already; leave out cache_interval, forecast, or write it there"
    both: dict[str, Any] = {"plan": file, "cache_interval": 3, "forecast": "taylor1"}
    with pytest.raises(DeepCacheError, match=message):
        DeepCachePipeline.from_pipe(tiny.digits(), **both)
    pipe = DeepCachePipeline.from_pipe(tiny.digits(), cache_interval=2)
    with pytest.raises(DeepCacheError, match=message):
        pipe.set_cache_params(**both)
    assert pipe.cache_params == DeepCache(cache_interval=2)


def test_a_branch_that_the_model_does_not_have_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"cache_branch_id": 99}')
    with pytest.raises(UnknownNameError, match="cache_branch_id=99 is outside 0…11"):
        DeepCachePipeline.from_pipe(tiny.digits(), plan=tmp_path / "plan.json")


def test_no_plan_is_none(file: Path) -> None:
    pipe = DeepCachePipeline.from_pipe(tiny.digits(), plan=None, cache_interval=4)
    pipe.set_cache_params(plan=None, cache_branch_id=2)
    assert pipe.cache_params == DeepCache(cache_interval=4, cache_branch_id=2)
