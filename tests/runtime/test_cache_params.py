"""Caching options: the impossible are refused with value, limit and cure, the others have one form and are words."""

from typing import Any

import pytest

from deepcache_trt.errors import DeepCacheError, UnknownNameError
from deepcache_trt.runtime.policies.deepcache import DeepCache, quad_center


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"cache_interval": 0}, DeepCacheError, "cache_interval must be a whole number of at least 1, not 0"),
        ({"cache_interval": -1}, DeepCacheError, "cache_interval .* at least 1, not -1"),
        ({"cache_interval": 2.5}, DeepCacheError, r"cache_interval .* not 2\.5"),
        ({"cache_interval": True}, DeepCacheError, "cache_interval .* not True"),
        ({"cache_interval": "3"}, DeepCacheError, "cache_interval .* not '3'"),
        ({"cache_branch_id": -1}, DeepCacheError, "cache_branch_id .* at least 0, not -1"),
        ({"cache_branch_id": None}, DeepCacheError, "cache_branch_id .* not None"),
        ({"skip_mode": "quad", "pow": 1}, DeepCacheError, "pow must be above 1.* not 1; the paper uses"),
        ({"skip_mode": "quad", "pow": float("nan")}, DeepCacheError, "pow .* not nan"),
        ({"skip_mode": "quad", "pow": float("inf")}, DeepCacheError, "pow .* at most 10, not inf"),
        ({"skip_mode": "quad", "pow": "1.4"}, DeepCacheError, r"pow .* not '1\.4'"),
        ({"pow": 1.4}, DeepCacheError, r"pow=1\.4 has no meaning for skip_mode='uniform'; use 'quad'"),
        (
            {"skip_mode": "quad", "center": 15},
            DeepCacheError,
            "center=15 has no meaning for skip_mode='quad'; use 'quad_center'",
        ),
        ({"skip_mode": "quad_center", "center": -1}, DeepCacheError, "center .* at least 0, not -1"),
        (
            {"skip_mode": "quad_centre"},
            UnknownNameError,
            r"'quad_centre' \(did you mean 'quad_center'\?\); known: uniform",
        ),
        ({"skip_mode": None}, UnknownNameError, "skip_mode None.*; known: uniform, quad, quad_center"),
        ({"full_steps": (0, -2)}, DeepCacheError, "full_steps .* not -2"),
        ({"full_steps": (1, "3")}, DeepCacheError, "full_steps .* not '3'"),
        ({"disable_cache_before_step": -1}, DeepCacheError, "disable_cache_before_step .* not -1"),
        ({"disable_cache_after_step": 1.5}, DeepCacheError, r"disable_cache_after_step .* not 1\.5"),
        ({"skip_interval": 0}, DeepCacheError, "skip_interval .* at least 1, not 0"),
        ({"forecast": "taylor2"}, UnknownNameError, r"forecast 'taylor2' \(did you mean 'taylor1'\?\); known: taylor1"),
    ],
)
def test_an_impossible_parameter_is_named_with_its_value(
    params: dict[str, Any], error: type[DeepCacheError], message: str
) -> None:
    with pytest.raises(error, match=message):
        DeepCache(**params)


def test_a_center_beyond_the_run_is_refused_with_the_calls_that_there_are() -> None:
    with pytest.raises(DeepCacheError, match=r"center must be a call of the run, 0…19, not 20"):
        DeepCache(skip_mode="quad_center", center=20).plan(20)


def test_a_schedule_without_distinct_calls_is_refused_with_the_cure() -> None:
    with pytest.raises(DeepCacheError, match=r"interval 2, center .* use another interval"):
        quad_center(10, 2, 5, 1.4)


def test_full_steps_are_kept_sorted_and_once_each() -> None:
    assert DeepCache(full_steps=(7, 0, 3, 3)).full_steps == (0, 3, 7)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        (DeepCache(cache_interval=1), "uncached"),
        (DeepCache(), "interval 3"),
        (DeepCache(cache_interval=4, cache_branch_id=2, forecast="taylor1"), "interval 4, branch 2, taylor1"),
        (DeepCache(skip_mode="quad", pow=1.5, skip_interval=1), "interval 3, quad 1.5, no cached calls"),
        (
            DeepCache(skip_mode="quad_center", pow=1.2, center=6, skip_interval=2, disable_cache_after_step=19),
            "interval 3, quad_center 1.2 around 6, full from 19, every other cached call",
        ),
        (DeepCache(disable_cache_before_step=2), "interval 3, full before 2"),
        (DeepCache(full_steps=(9, 0), cache_branch_id=1), "full at 0, 9, branch 1"),
        (DeepCache(skip_interval=3), "interval 3, without cached call 3 in 3"),
    ],
)
def test_a_plan_in_words(params: DeepCache, words: str) -> None:
    assert params.in_words == words
