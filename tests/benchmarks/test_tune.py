"""The search for a plan: its parts on made-up errors, and what it finds on the bundled model."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepcache_trt.benchmarks.timing.drawing import DIGITS, Scene, load_pipes
from deepcache_trt.benchmarks.tune import report as tune_report
from deepcache_trt.benchmarks.tune.draws import Checked, Drawer
from deepcache_trt.benchmarks.tune.search import (
    DEFAULT,
    UNCACHED,
    Costs,
    Result,
    Search,
    candidates,
    halve,
    kind_of,
    pareto,
    search,
    within,
)
from deepcache_trt.builder.model_source import ModelSource
from deepcache_trt.errors import DeepCacheError
from deepcache_trt.runtime.policies.deepcache import SHALLOW, DeepCache
from deepcache_trt.runtime.policies.plan_file import read_plan, write_plan

STEPS = 20
COSTS = Costs(
    unit="MACs",
    whole=1e9,
    calls={
        (branch, forecast): {"full": 1.0, "shallow": 0.1 + 0.2 * branch, "skip": 0.0}
        for branch in (0, 1)
        for forecast in (False, True)
    },
)
EVERYTHING = candidates(STEPS, (0, 1))
BOTH = [DeepCache(cache_branch_id=branch) for branch in (0, 1)]


def error_of(policy: DeepCache, seed: int) -> float:
    """Made up: a long interval hurts, a forecast helps much and another branch a little; seeds differ."""
    helped = 0.3 if policy.forecast else 1.0
    return (1 + 0.01 * seed) * policy.cache_interval**2 * helped * (1 - 0.1 * policy.cache_branch_id)


def quiet(line: str) -> None:
    """Nobody reads it."""


def result(cost: float, error: float) -> Result[DeepCache]:
    return Result(policy=DEFAULT, cost=cost, errors=(error,))


# The parts.


def test_candidates_cover_every_choice_and_no_plan_is_there_twice() -> None:
    plans = [
        (policy.plan(STEPS), policy.cache_branch_id if SHALLOW in policy.plan(STEPS).variants else 0)
        for policy in EVERYTHING
    ]
    assert len(set(plans)) == len(plans) > 500
    assert DEFAULT in EVERYTHING
    for field, least in {
        "cache_interval": 10,
        "skip_mode": 3,
        "skip_interval": 3,
        "forecast": 2,
        "cache_branch_id": 2,
    }.items():
        assert len({getattr(policy, field) for policy in EVERYTHING}) >= least
    assert any(policy.disable_cache_before_step for policy in EVERYTHING)
    assert any(policy.disable_cache_after_step for policy in EVERYTHING)


def test_candidates_that_a_schedule_cannot_have_are_left_out() -> None:
    for steps in (2, 3, 7):
        for policy in candidates(steps, (0,)):
            policy.plan(steps)


@pytest.mark.parametrize(
    ("policy", "share"),
    [
        (UNCACHED, 1.0),
        (DeepCache(cache_interval=4), (5 + 15 * 0.1) / 20),
        (DeepCache(cache_interval=4, cache_branch_id=1, forecast="taylor1"), (5 + 15 * 0.3) / 20),
        (DeepCache(cache_interval=4, skip_interval=1), 5 / 20),
        (DeepCache(cache_interval=20, disable_cache_after_step=18), (3 + 17 * 0.1) / 20),
    ],
)
def test_a_plan_costs_the_sum_of_its_calls(policy: DeepCache, share: float) -> None:
    assert COSTS.share(policy, STEPS) == pytest.approx(share)


def test_a_budget_buys_of_each_kind_the_shortest_interval() -> None:
    bought = within(0.42, EVERYTHING, COSTS, STEPS)
    assert Counter(map(kind_of, bought)).most_common(1)[0][1] == 1
    for policy in bought:
        assert COSTS.share(policy, STEPS) <= 0.42
        shorter = [
            one for one in EVERYTHING if kind_of(one) == kind_of(policy) and one.cache_interval < policy.cache_interval
        ]
        assert all(COSTS.share(one, STEPS) > 0.42 for one in shorter)
    assert DEFAULT in bought


def test_a_budget_below_every_plan_is_refused_with_the_least() -> None:
    with pytest.raises(
        DeepCacheError, match=r"budget of 2.0% of the uncached MACs .* cheapest plan's 5.0%; .*--macs 0.05"
    ):
        within(0.02, EVERYTHING, COSTS, STEPS)


def test_halving_draws_everyone_once_and_the_best_from_every_seed() -> None:
    drawn: list[tuple[DeepCache, int]] = []

    def counted(policy: DeepCache, seed: int) -> float:
        drawn.append((policy, seed))
        return error_of(policy, seed)

    found = within(0.5, EVERYTHING, COSTS, STEPS)
    left = halve(found, counted, range(4), quiet)
    rungs = Counter(seed for _, seed in drawn)
    assert rungs[0] == len(found) > 3 * rungs[2]
    assert rungs[0] > rungs[1] > rungs[2] == rungs[3] == len(left)
    assert len(set(drawn)) == len(drawn)
    assert [len(errors) for errors in left.values()] == [4] * len(left)
    assert next(iter(left)) == min(found, key=lambda policy: error_of(policy, 0))


def test_halving_with_a_single_seed_draws_everyone_once() -> None:
    found = within(0.5, EVERYTHING, COSTS, STEPS)
    assert len(halve(found, error_of, [7], quiet)) == len(found)


def test_the_front_has_what_is_neither_dearer_nor_worse_than_another() -> None:
    best = [result(0.1, 5), result(0.2, 3), result(0.5, 1)]
    worse = [result(0.1, 6), result(0.3, 3), result(0.4, 4), result(0.9, 1)]
    assert pareto([*worse, *best]) == best


@pytest.fixture
def found() -> Search:
    return search(0.42, steps=STEPS, branches=(0, 1), costs=COSTS, error_of=error_of, seeds=range(3), tell=quiet)


def test_a_search_finds_the_best_that_the_budget_buys(found: Search) -> None:
    affordable = [policy for policy in EVERYTHING if COSTS.share(policy, STEPS) <= 0.42]
    assert found.best.cost <= 0.42
    assert found.best.error == pytest.approx(1.01 * min(error_of(policy, 0) for policy in affordable))
    assert found.reuse_within is not None
    assert found.reuse_within.policy == DEFAULT
    assert {one.policy.cache_interval for one in found.reuse} >= {2, 3, 4, 5, 6, 10}
    assert found.front == tuple(pareto(found.front))
    assert len(found.front) > 3
    considered, drawn = found.considered
    assert considered == len(EVERYTHING) > 5 * drawn


# What is left behind.


def test_the_plan_file_says_what_it_was_found_for_and_what_was_measured(found: Search, tmp_path: Path) -> None:
    uncached = Checked(policy=UNCACHED, cost=1, errors=(0, 0), loop_seconds=(4, 8))
    plans = {"uncached": uncached, "chosen": replace(uncached, errors=(0.01, 0.03), loop_seconds=(2, 4))}
    plan = tune_report.plan_file(found.best, plans, model="digits", steps=STEPS, asked="a budget", unit="MACs")
    write_plan(tmp_path / "plan.json", plan)
    read = read_plan(tmp_path / "plan.json")
    assert read.policy == found.best.policy
    assert {"model": "digits", "steps": STEPS, "found_by": "deepcache-trt tune"}.items() <= read.about.items()
    assert {"asked": "a budget", "error": 0.02, "speedup": 2}.items() <= read.about.items()


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_front_is_plotted(suffix: str, found: Search, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"front.{suffix}"
    assert tune_report.save_plot(found, path, title="Plans", unit="MACs") == ""
    if suffix == "png":
        with Image.open(path) as image:
            assert min(image.size) >= 600
            assert len(np.unique(np.asarray(image.convert("L")))) > 50
    else:
        assert path.read_text().count("<path") > 20


def test_without_matplotlib_there_is_a_reason_and_no_plot(
    found: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    said = tune_report.save_plot(found, tmp_path / "front.png", title="Plans", unit="MACs")
    assert "pip install 'deepcache-trt[eval]'" in said
    assert not list(tmp_path.iterdir())


# On the bundled model.


@pytest.fixture(scope="module")
def drawer(store_root: Path) -> Drawer:
    pipes = load_pipes(ModelSource(model="digits"), policies=BOTH, backend="onnxruntime", store=store_root)
    return Drawer(pipes, Scene(prompts=DIGITS[:2], steps=8), (0, 1))


def test_a_candidates_error_is_against_the_uncached_picture(drawer: Drawer) -> None:
    assert drawer.error(UNCACHED, 0) == 0
    errors = [drawer.error(DeepCache(cache_interval=interval), 0) for interval in (2, 4)]
    assert 0.001 < errors[0] < errors[1]
    assert drawer.error(DeepCache(cache_interval=4, cache_branch_id=1), 0) < errors[1]
    assert drawer.error(DeepCache(cache_interval=2), 1) != errors[0]


def test_operations_are_counted_for_each_branch(drawer: Drawer) -> None:
    costs = drawer.count_macs()
    shallow = [costs.calls[branch, False]["shallow"] for branch in (0, 1)]
    assert 0.05 < shallow[0] < shallow[1] < 0.5
    assert costs.calls[0, False]["full"] == 1
    assert costs.calls[0, False]["skip"] == 0
    assert 5e8 < costs.whole < 6e8  # 70 M for a call of one picture with guidance, eight times


def test_calls_are_timed_for_each_branch_and_forecast(drawer: Drawer, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which a full call takes 2 s, one of branch k 0.5 + k, a skipped one 0.25, a forecast twice that."""
    draw = drawer.draw

    def timed(policy: DeepCache, seed: int) -> Any:
        seconds = {
            "full": 2.0,
            "shallow": 0.5 + policy.cache_branch_id,
            "skip": 0.25 if policy.forecast is None else 0.5,
        }
        loop_seconds = sum(seconds[variant] for variant in policy.plan(8).variants)
        return replace(draw(policy, seed), loop_seconds=loop_seconds)

    monkeypatch.setattr(drawer, "draw", timed)
    costs = drawer.time_calls()
    expected = {
        (k, forecast): (1, 0.25 + k / 2, 0.25 if forecast else 0.125) for k in (0, 1) for forecast in (False, True)
    }
    for key, (full, shallow, skip) in expected.items():
        assert costs.calls[key] == pytest.approx({"full": full, "shallow": shallow, "skip": skip})
    assert costs.whole == pytest.approx(8 * 2 / 2)  # of one picture of two


@pytest.mark.slow
def test_a_cached_call_takes_less_time_than_a_full_one(drawer: Drawer) -> None:
    costs = drawer.time_calls()
    for calls in costs.calls.values():
        assert 0 <= calls["skip"] < calls["shallow"] < 0.9
        assert 0.8 < calls["full"] < 1.6


def test_plans_are_checked_in_turn_on_seeds_of_their_own(drawer: Drawer) -> None:
    plans = drawer.check({"uncached": UNCACHED, "default": DEFAULT}, COSTS, (5, 6))
    assert plans["uncached"].errors == (0, 0)
    assert all(error > 0.001 for error in plans["default"].errors)
    assert all(len(one.loop_seconds) == 2 for one in plans.values())
    header, lines = tune_report.table(plans, "MACs")
    assert [line[0] for line in lines] == ["uncached", "default"]
    assert all(len(line) == len(header) for line in lines)


@pytest.mark.slow
def test_on_digits_it_finds_a_plan_that_beats_the_default_at_equal_time_on_seeds_that_it_was_not_tuned_on(
    store_root: Path,
) -> None:
    pipes = load_pipes(ModelSource(model="digits"), policies=BOTH, backend="onnxruntime", store=store_root)
    drawer = Drawer(pipes, Scene(prompts=DIGITS[::3], steps=STEPS), (0, 1))
    costs = drawer.count_macs()
    budget = costs.share(DEFAULT, STEPS)
    found = search(budget, steps=STEPS, branches=(0, 1), costs=costs, error_of=drawer.error, seeds=range(4), tell=quiet)
    assert found.best.cost <= budget
    plans = drawer.check({"default": DEFAULT, "chosen": found.best.policy}, costs, range(1000, 1012))
    default, chosen = plans["default"], plans["chosen"]
    wins = sum(ours < theirs for ours, theirs in zip(chosen.errors, default.errors, strict=True))
    assert wins >= 11
    assert sum(chosen.errors) < 0.7 * sum(default.errors)
    median = {name: sorted(one.loop_seconds)[len(one.loop_seconds) // 2] for name, one in plans.items()}
    assert median["chosen"] < 1.1 * median["default"]


@pytest.mark.slow
def test_the_front_of_a_search_is_ahead_of_plain_reuse_everywhere(drawer: Drawer) -> None:
    costs = drawer.count_macs()
    found = search(0.5, steps=8, branches=(0, 1), costs=costs, error_of=drawer.error, seeds=range(2), tell=quiet)
    for reuse in found.reuse:
        assert any(one.cost <= reuse.cost and one.error <= reuse.error for one in found.front)
    assert json.dumps(tune_report.record(found, costs, {}))
    assert replace(found.best.policy, cache_interval=1) != kind_of(DEFAULT)
