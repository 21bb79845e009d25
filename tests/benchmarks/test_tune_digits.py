"""Tuning on the bundled model: what candidates draw and cost, whole searches, and what they leave behind."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepcache_trt.benchmarks.timing.drawing import DIGITS, Pipes, Scene, load_pipes
from deepcache_trt.benchmarks.tune import report as tune_report
from deepcache_trt.benchmarks.tune.candidates import (
    DEFAULT,
    UNCACHED,
    AnyCandidate,
    Candidate,
    Planned,
    kind_of,
    uncached,
)
from deepcache_trt.benchmarks.tune.cheapest import Cheapest
from deepcache_trt.benchmarks.tune.costs import Budget
from deepcache_trt.benchmarks.tune.draws import Drawer, sampling_of
from deepcache_trt.benchmarks.tune.measures import ERROR, Goal, measure_of
from deepcache_trt.benchmarks.tune.run import Space, Tuned, tune
from deepcache_trt.benchmarks.tune.search import Search, search
from deepcache_trt.builder.model_source import ModelSource
from deepcache_trt.errors import DeepCacheError
from deepcache_trt.runtime.policies import DeepCache
from deepcache_trt.samplers import Sampler
from tests.benchmarks.made_up import DDIM, HEUN, UNIPC, costs, quiet, sampling

BOTH = [DeepCache(cache_branch_id=branch) for branch in (0, 1)]
EIGHT = sampling(8)
PAIR = Scene(prompts=DIGITS[:2], steps=8)
TRAILING = replace(UNIPC, options=(("timestep_spacing", "trailing"),))


@pytest.fixture(scope="module")
def pipes(store_root: Path) -> Pipes:
    return load_pipes(ModelSource(model="digits"), policies=BOTH, backend="onnxruntime", store=store_root)


@pytest.fixture
def drawer(pipes: Pipes) -> Drawer:
    return Drawer(pipes, PAIR, (0, 1), EIGHT)


def of(policy: DeepCache) -> Planned:
    return Candidate(sampling=EIGHT, policy=policy)


def test_a_candidates_error_is_against_the_uncached_picture(drawer: Drawer) -> None:
    assert drawer.error(uncached(EIGHT), 0) == 0
    errors = [drawer.error(of(DeepCache(cache_interval=interval)), 0) for interval in (2, 4)]
    assert 0.001 < errors[0] < errors[1]
    assert drawer.error(of(DeepCache(cache_interval=4, cache_branch_id=1)), 0) < errors[1]
    assert drawer.error(of(DeepCache(cache_interval=2)), 1) != errors[0]


def test_how_often_a_sampler_calls_the_denoiser_is_what_it_did(pipes: Pipes) -> None:
    for sampler in (DDIM, UNIPC, HEUN):
        assert sampling_of(pipes, PAIR, sampler, 5) == sampling(5, sampler)


def test_operations_are_counted_for_each_branch(drawer: Drawer) -> None:
    found = drawer.count_macs()
    shallow = [found.calls[branch, False]["shallow"] for branch in (0, 1)]
    assert 0.05 < shallow[0] < shallow[1] < 0.5
    assert found.calls[0, False]["full"] == 1
    assert found.calls[0, False]["skip"] == 0
    assert 5e8 < found.whole < 6e8  # 70 M for a call of one picture with guidance, eight times


def test_calls_are_timed_for_each_branch_and_forecast(drawer: Drawer, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which a full call takes 2 s, one of branch k 0.5 + k, a skipped one 0.25, a forecast twice that."""
    draw = drawer.draw

    def timed(candidate: Planned, seed: int) -> Any:
        policy = candidate.policy
        seconds = {
            "full": 2.0,
            "shallow": 0.5 + policy.cache_branch_id,
            "skip": 0.25 if policy.forecast is None else 0.5,
        }
        loop_seconds = sum(seconds[variant] for variant in candidate.plan.variants)
        return replace(draw(candidate, seed), loop_seconds=loop_seconds)

    monkeypatch.setattr(drawer, "draw", timed)
    found = drawer.time_calls()
    expected = {
        (k, forecast): (1, 0.25 + k / 2, 0.25 if forecast else 0.125) for k in (0, 1) for forecast in (False, True)
    }
    for key, (full, shallow, skip) in expected.items():
        assert found.calls[key] == pytest.approx({"full": full, "shallow": shallow, "skip": skip})
    assert found.whole == pytest.approx(8 * 2 / 2)  # of one picture of two
    assert found.reference_calls == 8


@pytest.mark.slow
def test_a_cached_call_takes_less_time_than_a_full_one(drawer: Drawer) -> None:
    for calls in drawer.time_calls().calls.values():
        assert 0 <= calls["skip"] < calls["shallow"] < 0.9
        assert 0.8 < calls["full"] < 1.6


def test_plans_are_checked_in_turn_on_seeds_of_their_own(drawer: Drawer) -> None:
    plans = drawer.check({"uncached": uncached(EIGHT), "default": of(DEFAULT)}, costs(8), (5, 6))
    assert plans["uncached"].errors == (0, 0)
    assert all(error > 0.001 for error in plans["default"].errors)
    assert all(len(one.loop_seconds) == 2 for one in plans.values())
    assert not any(one.caching_errors for one in plans.values()), "it would be the error again"


def test_against_another_truth_what_caching_changed_is_told_beside_it(pipes: Pipes) -> None:
    fine = Drawer(pipes, PAIR, (0,), sampling(40))
    drawer = Drawer(pipes, PAIR, (0,), EIGHT, truth=lambda seed: fine.draw(uncached(sampling(40)), seed))
    other = sampling(6, TRAILING)
    rows: dict[str, AnyCandidate] = {
        "uncached": uncached(EIGHT),
        "default": of(DEFAULT),
        "chosen": Candidate(sampling=other, policy=DEFAULT),
    }
    checked = drawer.check(rows, costs(8), (5,))
    assert checked["uncached"].errors[0] > 0.01
    assert checked["uncached"].caching_errors == ()
    beside = Drawer(pipes, PAIR, (0,), other)
    assert checked["default"].caching_errors == pytest.approx([Drawer(pipes, PAIR, (0,), EIGHT).error(of(DEFAULT), 5)])
    assert checked["chosen"].caching_errors == pytest.approx(
        [beside.error(Candidate(sampling=other, policy=DEFAULT), 5)]
    )
    assert checked["chosen"].cost == pytest.approx((2 + 4 * 0.1) / 8)


# Whole searches.


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """A solution that is found sooner."""
    monkeypatch.setattr("deepcache_trt.samplers._FINEST_STEPS", 60)


Tune = Callable[..., Tuned]


@pytest.fixture
def tuned(pipes: Pipes) -> Tune:
    """Search small spaces for two digits."""

    def tuned(asked: Budget | Goal, steps: tuple[int, ...] = (6,), samplers: tuple[Sampler, ...] = (DDIM,)) -> Tuned:
        solved = len(steps) * len(samplers) > 1
        space = Space(samplers=samplers, steps=steps, branches=(0,), solved=solved)
        return tune(pipes, space, PAIR, asked, seeds=1, unseen=2, tell=quiet)

    return tuned


@pytest.mark.usefixtures("coarse")
def test_two_samplers_with_two_counts_of_steps_are_searched_within_a_budget(tuned: Tune) -> None:
    found = tuned(Budget(macs=0.55), steps=(4, 8), samplers=(DDIM, TRAILING))
    assert isinstance(found.found, Search)
    assert list(found.checked) == [
        "uncached",
        "default",
        "uncached within the budget",
        "plain reuse within the budget",
        "chosen",
    ]
    assert found.truth == "DDIM, 60 steps"
    assert found.checked["uncached"].candidate == uncached(EIGHT)
    assert found.checked["uncached"].cost == 1
    assert not found.checked["uncached within the budget"].candidate.caches
    whole = {one.candidate.sampling: one.error for one in found.found.uncached}
    assert set(whole) == {sampling(steps, sampler) for steps in (4, 8) for sampler in (DDIM, TRAILING)}
    assert found.found.best.error <= min(whole[sampling(4, sampler)] for sampler in (DDIM, TRAILING))
    assert whole[sampling(8, TRAILING)] < whole[EIGHT], "the better sampler"
    assert {one.candidate.sampling.sampler for one in found.found.front} >= {TRAILING}
    header, lines = tune_report.table(found)
    assert header[1:3] == ["sampler, steps", "plan"]
    assert lines[0][1] == "DDIM 8"
    for line in lines:
        cells = dict(zip(header, line, strict=True))
        assert (cells["error of caching"] == "") == (cells["plan"] == "uncached")
    about = tune_report.plan_file(found, model="digits").about
    chosen = found.chosen.sampling
    assert (about["scheduler"], about["steps"]) == (chosen.sampler.name, chosen.steps)
    assert about["against"] == "DDIM, 60 steps"
    assert about["cost_of"] == "MACs over those of DDIM 8, uncached"
    assert "seconds_an_image" not in about, "nobody asked for a clock"
    assert tune_report.options(found) == ["--scheduler", chosen.sampler.name, "--steps", str(chosen.steps)]
    text = tune_report.page(found, title="Plans", command="tune", environment={}, plot="front.png")
    assert "of the uncached MACs of DDIM 8. Of " in text
    assert "the solution, by DDIM, 60 steps from the same noise" in text
    json.loads(json.dumps(tune_report.record(found)), parse_constant=pytest.fail)


@pytest.mark.usefixtures("coarse")
@pytest.mark.slow
def test_two_samplers_are_searched_for_a_fidelity(tuned: Tune) -> None:
    found = tuned(Goal(measure=ERROR, value=0.4), steps=(3, 6), samplers=(DDIM, TRAILING))
    assert isinstance(found.found, Cheapest)
    assert list(found.checked) == ["uncached", "default", "uncached and near enough", "chosen"]
    assert sum(found.checked["chosen"].errors) / 2 <= 0.4
    assert found.found.best.cost <= found.found.uncached[0].cost
    about = tune_report.plan_file(found, model="digits").about
    assert about["seconds_an_image"] == pytest.approx(
        np.median(found.checked["chosen"].loop_seconds) / len(PAIR.prompts), abs=1e-5
    )
    assert "against the solution of the same seed by DDIM, 60 steps" in tune_report.page(
        found, title="Plans", command="tune", environment={}, plot=None
    )


def test_a_sampler_that_draws_noise_is_refused_with_the_cure(tuned: Tune) -> None:
    noisy = Sampler(class_name="EulerAncestralDiscreteScheduler")
    for asked in (Budget(), Goal(measure=ERROR, value=0.4)):
        with pytest.raises(DeepCacheError, match=r"EulerAncestralDiscrete draws noise at its .* leave it out"):
            tuned(asked, samplers=(DDIM, noisy))


def test_a_psnr_is_kept_and_told(tuned: Tune) -> None:
    found = tuned(Goal(measure=measure_of("psnr"), value=27))
    assert isinstance(found.found, Cheapest)
    assert 0.2 < found.found.best.cost < 1
    assert sum(found.found.checked) / 2 <= -27
    assert found.checked["uncached"].errors == (math.inf, math.inf)
    assert 20 < found.checked["chosen"].errors[0] < 80
    header, lines = tune_report.table(found)
    assert lines[0][header.index("PSNR, dB")] == "∞"
    text = tune_report.page(found, title="Plans", command="tune", environment={}, plot=None)
    assert "Asked for: PSNR of at least 27 dB, against the uncached picture" in text
    assert found.chosen.policy.in_words in text
    json.loads(json.dumps(tune_report.record(found)), parse_constant=pytest.fail)


@pytest.mark.slow
def test_on_digits_it_finds_a_plan_that_beats_the_default_at_equal_time_on_seeds_that_it_was_not_tuned_on(
    pipes: Pipes,
) -> None:
    twenty = sampling(20)
    drawer, default = Drawer(pipes, replace(PAIR, prompts=DIGITS[::3]), (0, 1), twenty), of(DEFAULT)
    default = replace(default, sampling=twenty)
    counted = drawer.count_macs()
    budget = counted.share(default)
    found = search(
        budget,
        samplings=[twenty],
        branches=(0, 1),
        costs=counted,
        error_of=drawer.error,
        seeds=range(4),
        tell=quiet,
    )
    assert found.best.cost <= budget
    plans = drawer.check({"default": default, "chosen": found.best.candidate}, counted, range(1000, 1012))
    theirs, ours = plans["default"], plans["chosen"]
    assert sum(mine < other for mine, other in zip(ours.errors, theirs.errors, strict=True)) >= 11
    assert sum(ours.errors) < 0.7 * sum(theirs.errors)
    median = {name: sorted(one.loop_seconds)[len(one.loop_seconds) // 2] for name, one in plans.items()}
    assert median["chosen"] < 1.1 * median["default"]


@pytest.mark.slow
def test_the_front_of_a_search_is_ahead_of_plain_reuse_everywhere(drawer: Drawer) -> None:
    found = search(
        0.5,
        samplings=[EIGHT],
        branches=(0, 1),
        costs=drawer.count_macs(),
        error_of=drawer.error,
        seeds=range(2),
        tell=quiet,
    )
    for reuse in found.reuse:
        assert any(one.cost <= reuse.cost and one.error <= reuse.error for one in found.front)
    assert kind_of(found.best.candidate).policy != UNCACHED
