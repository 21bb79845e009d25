"""Plans: the published schedules, number by number, and what every plan promises."""

import math
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from deepcache_trt.errors import DeepCacheError
from deepcache_trt.runtime.plan import FULL, SKIP, Plan, gain_in_words
from deepcache_trt.runtime.policies.deepcache import SHALLOW, DeepCache, quad, quad_center, uniform

# The paper's non-uniform schedules of Stable Diffusion, 50 steps: interval → center, pow.
PUBLISHED = {2: (15, 1.5), 3: (15, 1.3), 4: (15, 1.4), 5: (10, 1.5), 6: (15, 1.3), 7: (15, 1.4), 8: (10, 1.4)}


def published_quad(calls: int, count: int, pow: float) -> list[int]:
    while pow > 1:
        steps: list[int] = np.unique(np.int32(np.linspace(0, calls ** (1 / pow), count + 1) ** pow))[:-1].tolist()
        if len(steps) == count:
            return steps
        pow -= 0.02
    raise ValueError("no pow")


def published_quad_center(calls: int, count: int, center: int, pow: float) -> list[int]:
    while pow > 1:
        ends = (-center) ** (1 / pow), (calls - center) ** (1 / pow)  # the first is complex
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", np.exceptions.ComplexWarning)  # int32 drops the imaginary part
            steps = np.unique(np.int32(np.linspace(*ends, count + 1) ** pow))[1:-1]
        if len(steps) + 1 == count:
            return [0, *(steps + center).tolist()]
        pow -= 0.02
    raise ValueError("no pow")


@pytest.mark.parametrize(
    ("calls", "interval", "steps"),
    [(10, 3, [0, 3, 6, 9]), (9, 3, [0, 3, 6]), (50, 5, [*range(0, 50, 5)]), (4, 1, [0, 1, 2, 3]), (3, 9, [0])],
)
def test_uniform_is_every_nth_call(calls: int, interval: int, steps: list[int]) -> None:
    assert uniform(calls, interval) == steps


@pytest.mark.parametrize(
    ("calls", "interval", "pow", "steps"),
    [(50, 5, 1.5, [0, 1, 4, 8, 12, 17, 23, 29, 35, 42]), (10, 2, 1.42, [0, 1, 2, 4, 7]), (20, 10, 1.2, [0, 8])],
)
def test_quad_is_dense_at_the_start(calls: int, interval: int, pow: float, steps: list[int]) -> None:
    assert quad(calls, interval, pow) == steps


def test_quad_lowers_pow_until_the_calls_are_distinct() -> None:
    assert quad(10, 2, 1.5) == quad(10, 2, 1.42)


def test_quad_center_is_the_schedule_of_the_published_demo() -> None:
    assert quad_center(50, 5, 15, 1.4) == [0, 5, 9, 13, 17, 21, 26, 31, 37, 43]


@pytest.mark.parametrize(("interval", "center", "pow"), [(n, c, p) for n, (c, p) in PUBLISHED.items()])
def test_quad_center_has_the_papers_number_of_full_calls(interval: int, center: int, pow: float) -> None:
    steps = quad_center(50, interval, center, pow)
    assert steps == published_quad_center(50, math.ceil(50 / interval), center, pow)
    assert len(steps) == math.ceil(50 / interval)


@settings(deadline=None)
@given(calls=st.integers(2, 250), interval=st.integers(2, 20), pow=st.floats(1.01, 2), data=st.data())
def test_schedules_equal_the_published_formulas(calls: int, interval: int, pow: float, data: Any) -> None:
    count, center = math.ceil(calls / interval), data.draw(st.integers(0, calls - 1))
    pairs: list[tuple[Callable[[], Sequence[int]], Callable[[], Sequence[int]]]] = [
        (lambda: quad(calls, interval, pow), lambda: published_quad(calls, count, pow)),
        (lambda: quad_center(calls, interval, center, pow), lambda: published_quad_center(calls, count, center, pow)),
    ]
    for ours, published in pairs:
        try:
            steps = published()
        except ValueError:
            with pytest.raises(DeepCacheError):
                ours()
        else:
            assert ours() == steps


@st.composite
def cache_params(draw: st.DrawFn) -> DeepCache:
    mode = draw(st.sampled_from(["uniform", "quad", "quad_center"]))
    optional = st.none() | st.integers(0, 60)
    return DeepCache(
        cache_interval=draw(st.integers(1, 40)),
        skip_mode=mode,
        pow=None if mode == "uniform" else draw(st.none() | st.floats(1.01, 3)),
        center=draw(optional) if mode == "quad_center" else None,
        full_steps=draw(st.none() | st.lists(st.integers(0, 60)).map(tuple)),
        disable_cache_before_step=draw(optional),
        disable_cache_after_step=draw(optional),
    )


@settings(deadline=None)
@given(params=cache_params(), calls=st.integers(1, 60))
def test_a_plan_has_one_variant_for_each_call_and_starts_full(params: DeepCache, calls: int) -> None:
    plan = _plan_if_possible(params, calls)
    assert len(plan) == calls
    assert set(plan.variants) <= {FULL, SHALLOW}
    assert plan.variants[0] == FULL
    assert [plan.variants[i] for i in plan.full_steps] == [FULL] * len(plan.full_steps)


@settings(deadline=None)
@given(params=cache_params(), calls=st.integers(1, 60))
def test_calls_outside_the_window_are_full(params: DeepCache, calls: int) -> None:
    plan = _plan_if_possible(params, calls)
    if params.disable_cache_before_step is not None:
        assert set(plan.variants[: params.disable_cache_before_step]) <= {FULL}
    if params.disable_cache_after_step is not None:
        assert set(plan.variants[params.disable_cache_after_step :]) <= {FULL}


@given(steps=st.lists(st.integers(0, 60)), calls=st.integers(1, 60), interval=st.integers(1, 9))
def test_explicit_full_steps_are_the_plan_whatever_the_interval(steps: list[int], calls: int, interval: int) -> None:
    plan = DeepCache(full_steps=tuple(steps), cache_interval=interval).plan(calls)
    assert set(plan.full_steps) == {0, *(step for step in steps if step < calls)}


@pytest.mark.parametrize(
    ("window", "full"),
    [
        ({}, (0, 4, 8)),
        ({"disable_cache_before_step": 3}, (0, 1, 2, 4, 8)),
        ({"disable_cache_after_step": 7}, (0, 4, 7, 8, 9)),
        ({"disable_cache_before_step": 2, "disable_cache_after_step": 9}, (0, 1, 4, 8, 9)),
        ({"disable_cache_before_step": 99}, tuple(range(10))),
        ({"disable_cache_after_step": 99}, (0, 4, 8)),
    ],
)
def test_the_window_adds_full_calls_to_the_schedule(window: dict[str, Any], full: tuple[int, ...]) -> None:
    assert DeepCache(cache_interval=4, **window).plan(10).full_steps == full


@pytest.mark.parametrize("mode", ["uniform", "quad", "quad_center"])
def test_interval_one_caches_nothing(mode: str) -> None:
    assert DeepCache(cache_interval=1, skip_mode=mode).plan(7).full_steps == tuple(range(7))


@example(calls=80, interval=10, center=6, pow=9.0)  # the plain formula repeats the first call
@example(calls=87, interval=10, center=80, pow=9.0)  # the plain formula ends after the last call
@settings(deadline=None)
@given(
    calls=st.integers(1, 250),
    interval=st.integers(1, 50),
    center=st.none() | st.integers(0, 250),
    pow=st.floats(1.01, 9),
)
def test_quad_schedules_have_a_full_call_for_each_interval_or_are_refused(
    calls: int, interval: int, center: int | None, pow: float
) -> None:
    for params in (
        DeepCache(cache_interval=interval, skip_mode="quad", pow=pow),
        DeepCache(cache_interval=interval, skip_mode="quad_center", pow=pow, center=center),
    ):
        try:
            plan = params.plan(calls)
        except DeepCacheError:
            continue
        assert len(plan.full_steps) == math.ceil(calls / interval)


def test_quad_center_without_a_center_takes_the_papers_fifteen_of_fifty() -> None:
    implicit = DeepCache(cache_interval=5, skip_mode="quad_center").plan(50)
    assert implicit.full_steps == tuple(quad_center(50, 5, 15, 1.4))


@pytest.mark.parametrize("interval", range(2, 11))
@pytest.mark.parametrize("calls", [4, 20, 50, 100])
@pytest.mark.parametrize("mode", ["quad", "quad_center"])
def test_defaults_give_a_plan_at_every_usual_setting(mode: str, calls: int, interval: int) -> None:
    plan = DeepCache(cache_interval=interval, skip_mode=mode).plan(calls)
    assert len(plan.full_steps) == math.ceil(calls / interval)


def test_a_plan_that_would_reuse_what_was_never_computed_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        Plan(variants=(SHALLOW, FULL))


def _plan_if_possible(params: DeepCache, calls: int) -> Plan:
    try:
        return params.plan(calls)
    except DeepCacheError:
        assume(False)
        raise


@pytest.mark.parametrize(
    ("skip_interval", "plan"),
    [(None, "fssssfssss"), (1, "fkkkkfkkkk"), (2, "fskskfsksk"), (3, "fssksfssks"), (9, "fssssfssss")],
)
def test_each_mth_cached_call_after_a_full_one_is_skipped(skip_interval: int | None, plan: str) -> None:
    letters = {FULL: "f", SHALLOW: "s", SKIP: "k"}
    made = DeepCache(cache_interval=5, skip_interval=skip_interval).plan(10)
    assert "".join(letters[variant] for variant in made.variants) == plan
    assert made.full_steps == (0, 5)


def test_forecast_rows_are_of_what_each_tensor_has_been_computed_at() -> None:
    plan = DeepCache(full_steps=(0, 2, 6), skip_interval=2, forecast="taylor1").plan(8)
    assert plan.forecast == "taylor1"
    assert plan.variants == (FULL, SHALLOW, FULL, SHALLOW, SKIP, SHALLOW, FULL, SHALLOW)
    rows = plan.forecast_rows([{FULL}, {FULL, SHALLOW}])
    of_full = [
        (0, 0, 0),
        (1, 0, 1),
        (1, 0, 1),
        (-0.5, 1.5, 0),
        (-1, 2, 0),
        (-1.5, 2.5, 0),
        (-2, 3, 0),
        (1.25, -0.25, 1),
    ]
    of_all = [(0, 0, 0), (1, 0, 1), (-1, 2, 0), (2, -1, 1), (-1, 2, 0), (-2, 3, 0), (1.5, -0.5, 1), (-1, 2, 0)]
    assert rows == pytest.approx(np.concatenate([of_full, of_all], axis=1))
    assert DeepCache().plan(8).forecast_rows([{FULL}]).shape == (8, 0)


@pytest.mark.parametrize(
    ("params", "calls", "says"),
    [
        ({"cache_interval": 2}, 4, "2 of 4 calls are full: even if .* cost nothing, .* is at most 2.0 times as fast$"),
        ({"cache_interval": 3}, 4, "2 of 4 calls are full: .* at most 2.0 times"),
        ({"cache_interval": 8}, 8, "1 of 8 calls is full: .* at most 8.0 times"),
        ({"cache_interval": 2, "skip_interval": 1}, 7, "4 of 7 calls are full: .* at most 1.8 times"),
        ({"cache_interval": 1}, 4, "every call is full, nothing is reused$"),
        ({"cache_interval": 3}, 1, "every call is full, nothing is reused$"),
        ({}, 0, "$"),
    ],
)
def test_what_a_plan_can_gain_is_the_count_of_its_full_calls(params: dict[str, Any], calls: int, says: str) -> None:
    assert re.match(says, gain_in_words(DeepCache(**params).plan(calls)))
