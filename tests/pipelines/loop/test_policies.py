"""A policy that nobody here knows draws on every backend, in both ways, and its plan files are read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from deepcache_trt import DeepCachePipeline
from deepcache_trt.errors import DeepCacheError, UnknownNameError
from deepcache_trt.models.taps import Variant
from deepcache_trt.runtime.plan import FULL, Plan
from deepcache_trt.runtime.policies import DeepCache, Policy, Uncached
from deepcache_trt.runtime.policies.plan_file import PlanFile, read_plan, write_plan
from tests.pipelines.drawing import python_between_steps
from tests.pipelines.micro import OTHERS, STRAIGHT, cached, draw
from tests.reference import cached_by_policy

TEXT, CONTROLLED = STRAIGHT["sd"], OTHERS["sd controlnet"]
STEPS = 7
BACKENDS = ["onnxruntime", "openvino", "torch"]


@dataclass(frozen=True, kw_only=True)
class Alternating(Policy):
    """Full, then in turn the shallow layers and the deeper ones, which compute the shallow tap again."""

    kind: ClassVar[str] = "alternating"

    def variants(self, taps: Sequence[str]) -> tuple[Variant, ...]:
        near, far = taps[:2]
        deeper = Variant(name="deeper", consumes=(far,), emits=(near,))
        return Variant(name=FULL, emits=(near, far)), Variant(name="shallow", consumes=(near,)), deeper

    def plan(self, calls: int) -> Plan:
        return Plan(variants=(FULL, *("shallow", "deeper") * calls)[:calls])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_policy_of_ten_lines_draws_what_hooks_on_the_model_draw(backend: str) -> None:
    pipe = cached(TEXT, policy=Alternating(), backend=backend)
    whole = draw(pipe, TEXT, num_inference_steps=STEPS)
    assert pipe.last_run.way == "whole loop"
    assert pipe.last_run.plan.variants == (FULL, *("shallow", "deeper") * 3)
    assert {name: len(seconds) for name, seconds in pipe.last_run.runs.items()} == {FULL: 1, "shallow": 3, "deeper": 3}
    per_step = draw(pipe, TEXT, num_inference_steps=STEPS, callback_on_step_end=python_between_steps)
    assert pipe.last_run.way == "per step"
    plain = TEXT.new()
    with cached_by_policy(plain.unet, Alternating(), STEPS):
        expected = draw(plain, TEXT, num_inference_steps=STEPS)
    scale = expected.abs().max()
    assert (whole - expected).abs().max() < 1e-4 * scale
    assert (per_step - expected).abs().max() < 1e-4 * scale
    assert not torch.allclose(draw(cached(TEXT, policy=Uncached()), TEXT, num_inference_steps=STEPS), whole, rtol=1e-3)


def test_a_controlnet_follows_the_variants_of_any_policy() -> None:
    pipe = cached(CONTROLLED, policy=Alternating())
    image = draw(pipe, CONTROLLED, num_inference_steps=STEPS)
    plain = CONTROLLED.new()
    with cached_by_policy(plain.unet, Alternating(), STEPS):
        expected = draw(plain, CONTROLLED, num_inference_steps=STEPS)
    assert (image - expected).abs().max() < 1e-4 * expected.abs().max()


def test_uncached_is_plain_diffusers_on_one_engine() -> None:
    pipe = cached(TEXT, policy=Uncached())
    image = draw(pipe, TEXT, num_inference_steps=STEPS)
    expected = draw(TEXT.new(), TEXT, num_inference_steps=STEPS)
    assert (image - expected).abs().max() < 1e-4 * expected.abs().max()
    assert list(pipe._cached_denoiser.session.engines) == [FULL]


def test_policies_take_turns_and_plan_files_hold_them(tmp_path: Path) -> None:
    pipe = cached(TEXT, cache_interval=2)
    first = draw(pipe, TEXT, num_inference_steps=STEPS)
    write_plan(tmp_path / "plan.json", PlanFile(policy=Alternating()))
    assert read_plan(tmp_path / "plan.json").policy == Alternating()
    pipe.set_cache_params(plan=tmp_path / "plan.json")
    assert pipe.policy == Alternating()
    second = draw(pipe, TEXT, num_inference_steps=STEPS)
    assert not torch.equal(first, second)
    pipe.set_cache_params(cache_interval=2)  # of another policy nothing is left
    assert pipe.policy == DeepCache(cache_interval=2)
    assert torch.equal(draw(pipe, TEXT, num_inference_steps=STEPS), first)
    assert torch.equal(draw(cached(TEXT, policy=Alternating()), TEXT, num_inference_steps=STEPS), second)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"policy": "deepcache"}, r"policy='deepcache' is no policy; give one, as DeepCache\(cache_interval=3\)"),
        (
            {"policy": Uncached(), "cache_interval": 2},
            "policy= says how to cache already; leave out cache_interval",
        ),
        ({"policy": Uncached(), "plan": "plan.json"}, "plan.json says how to cache already; leave out policy"),
    ],
)
def test_a_policy_is_given_once(given: dict[str, Any], message: str) -> None:
    with pytest.raises(DeepCacheError, match=message):
        cached(TEXT, **given)


def test_a_policy_that_wants_what_the_model_lacks_is_refused_with_its_name() -> None:
    pipe = DeepCachePipeline.from_pipe(TEXT.new(), backend="onnxruntime")
    before = pipe.policy
    with pytest.raises(UnknownNameError, match=r"cache_branch_id=99 is outside 0…1: there are 2 skip connections"):
        pipe.set_cache_params(policy=DeepCache(cache_branch_id=99))
    assert pipe.policy == before
