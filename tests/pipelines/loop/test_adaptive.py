"""Adaptive caching: the same decisions in both ways, the same for a seed, said with their reasons, kept as a plan."""

from pathlib import Path
from typing import Any

import pytest
import torch

from deepcache_trt.errors import DeepCacheError
from deepcache_trt.runtime.decision import CRITERIA
from deepcache_trt.runtime.plan import FULL, SKIP
from deepcache_trt.runtime.policies import Adaptive, Fixed
from deepcache_trt.runtime.policies.plan_file import PlanFile, read_plan, write_plan
from tests.pipelines.drawing import python_between_steps
from tests.pipelines.micro import OTHERS, STRAIGHT, cached, draw

TEXT, CONTROLLED = STRAIGHT["sd"], OTHERS["sd controlnet"]
STEPS = 20
# Thresholds that lead to calls of every kind.
POLICIES = [
    Adaptive(threshold=0.6, skip_threshold=0.12, max_consecutive=5),
    Adaptive(threshold=0.6, skip_threshold=0.12, max_consecutive=5, forecast="taylor1"),
    Adaptive(threshold=0.5, skip_threshold=0.02, max_consecutive=5, criterion="curvature", cache_branch_id=1),
]


def variants(pipe: Any) -> tuple[str, ...]:
    ran: tuple[str, ...] = pipe.last_run.plan.variants
    return ran


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.in_words)
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "torch"])
def test_both_ways_decide_alike_and_draw_the_same(policy: Adaptive, backend: str) -> None:
    pipe = cached(TEXT, policy=policy, backend=backend)
    whole = draw(pipe, TEXT, num_inference_steps=STEPS)
    assert pipe.last_run.way == "whole loop"
    decided = variants(pipe)
    assert len(decided) == STEPS
    assert {*decided} == {FULL, "shallow", SKIP}
    reasons = pipe.last_run.decisions
    assert tuple(each.variant for each in reasons) == decided
    per_step = draw(pipe, TEXT, num_inference_steps=STEPS, callback_on_step_end=python_between_steps)
    assert pipe.last_run.way == "per step"
    assert variants(pipe) == decided
    assert (whole - per_step).abs().max() <= 1e-5 * whole.abs().max()
    assert reasons[0].why == "there is nothing to reuse"
    assert all(each.why for each in reasons)


def test_the_same_seed_decides_the_same_way_whatever_was_drawn_before() -> None:
    pipe = cached(TEXT, policy=POLICIES[0])
    first = draw(pipe, TEXT, num_inference_steps=STEPS)
    decided = variants(pipe)
    others: list[dict[str, Any]] = [{"num_inference_steps": 7}, {"guidance_scale": 1.0}, {"height": 96, "seed": 3}]
    for other in others:
        draw(pipe, TEXT, **{"num_inference_steps": STEPS, **other})
    assert torch.equal(draw(pipe, TEXT, num_inference_steps=STEPS), first)
    assert variants(pipe) == decided


def test_the_worst_image_of_a_batch_decides_for_all() -> None:
    pipe = cached(TEXT, policy=Adaptive(threshold=0.4, max_consecutive=9))
    counts = []
    for seed in (0, 1):
        draw(pipe, TEXT, seed=seed, num_inference_steps=STEPS)
        counts.append(variants(pipe).count(FULL))
    draw(pipe, TEXT, seed=[0, 1], prompt=["a handwritten seven"] * 2, num_inference_steps=STEPS)
    assert variants(pipe).count(FULL) >= max(counts)


def test_what_a_run_took_is_a_plan_for_as_many_calls(tmp_path: Path) -> None:
    pipe = cached(TEXT, policy=POLICIES[0])
    adaptive = draw(pipe, TEXT, num_inference_steps=STEPS)
    decided = variants(pipe)
    write_plan(tmp_path / "plan.json", PlanFile(policy=pipe.last_run.fixed()))
    pipe.set_cache_params(plan=tmp_path / "plan.json")
    assert pipe.policy == Fixed(of=POLICIES[0], calls=decided)
    assert read_plan(tmp_path / "plan.json").policy == pipe.policy
    assert torch.equal(draw(pipe, TEXT, num_inference_steps=STEPS), adaptive)
    assert variants(pipe) == decided
    assert pipe.last_run.decisions == ()
    with pytest.raises(DeepCacheError, match=f"for {STEPS} calls of the model, and there are 9; draw with as many"):
        draw(pipe, TEXT, num_inference_steps=9)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_threshold_of_nothing_draws_what_no_cache_draws(criterion: str) -> None:
    pipe = cached(TEXT, policy=Adaptive(threshold=0, criterion=criterion))
    image = draw(pipe, TEXT, num_inference_steps=STEPS)
    assert {*variants(pipe)} == {FULL}
    uncached = draw(cached(TEXT, cache_interval=1), TEXT, num_inference_steps=STEPS)
    assert torch.equal(image, uncached)


def test_a_controlnet_computes_all_of_its_residuals_for_a_denoiser_that_decides() -> None:
    pipe = cached(CONTROLLED, policy=POLICIES[0])
    image = draw(pipe, CONTROLLED, num_inference_steps=STEPS)
    fixed = cached(CONTROLLED, policy=pipe.last_run.fixed())
    assert torch.allclose(draw(fixed, CONTROLLED, num_inference_steps=STEPS), image, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"threshold": -0.1}, "threshold must be a number of at least 0, not -0.1"),
        ({"threshold": float("nan")}, "threshold must be a number of at least 0, not nan"),
        ({"threshold": "0.1"}, "threshold must be a number of at least 0, not '0.1'"),
        ({"threshold": 0.1, "skip_threshold": float("inf")}, "skip_threshold must be .* not inf"),
        ({"threshold": 0.1, "max_consecutive": 0}, "max_consecutive must be a whole number of at least 1, not 0"),
        ({"threshold": 0.1, "criterion": "responce"}, r"criterion 'responce' \(did you mean 'response'\?\)"),
        ({"threshold": 0.1, "cache_branch_id": -1}, "cache_branch_id must be a whole number of at least 0, not -1"),
    ],
)
def test_what_makes_no_rule_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DeepCacheError, match=message):
        Adaptive(**fields)
