"""The comparison of forecasts and skipped calls with plain reuse: its arithmetic, and what it finds on digits."""

from pathlib import Path
from typing import Any

import pytest

from deepcache_trt import DeepCachePipeline
from deepcache_trt.benchmarks.reuse import Result, Setting, advantage, error_of_reuse, measure, report, settings

PLAIN = [
    Result(setting=Setting(interval=1), seconds=8, errors=(0.0, 0.0)),
    Result(setting=Setting(interval=2), seconds=4, errors=(0.2, 0.4)),
    Result(setting=Setting(interval=4), seconds=2, errors=(0.6, 1.2)),
]


@pytest.mark.parametrize(
    ("seconds", "error"), [(4, 0.2), (3, 0.4), (2, 0.6), (6, 0.1), (8, 0.0), (1.9, None), (8.1, None)]
)
def test_plain_reuse_at_any_time_lies_between_its_intervals(seconds: float, error: float | None) -> None:
    assert error_of_reuse(PLAIN, seconds, seed=0) == (None if error is None else pytest.approx(error))


def test_an_advantage_is_over_plain_reuse_at_equal_time_not_at_equal_interval() -> None:
    better = Result(setting=Setting(interval=4, forecast="taylor1"), seconds=3, errors=(0.2, 0.2))
    assert advantage(better, PLAIN) == pytest.approx((0.4 / 0.2 + 0.8 / 0.2) / 2)
    faster = Result(setting=Setting(interval=4, skip_interval=1), seconds=1, errors=(0.1, 0.1))
    assert advantage(faster, PLAIN) is None


def test_the_page_has_every_setting_and_says_where_it_was_measured() -> None:
    better = Result(setting=Setting(interval=4, forecast="taylor1"), seconds=3, errors=(0.2, 0.2))
    page = report([*PLAIN, better], steps=10, command="the command", where="a machine")
    assert "Written by `the command` on a machine." in page
    assert "| 2 | 2.00× | 0.3000 |  |" in page
    assert "## Cached calls, extrapolated by taylor1" in page
    assert "| 4 | 2.67× | 0.2000 | 3.00 |" in page


def test_plain_reuse_comes_first_and_no_setting_twice() -> None:
    chosen = settings()
    assert chosen[0] == Setting(interval=1)
    assert len(set(chosen)) == len(chosen)


@pytest.fixture
def pipe(store_root: Path) -> Any:
    pipe = DeepCachePipeline.from_pretrained("digits", components=("unet",), store=store_root)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_every_setting_is_drawn_for_every_seed_and_the_pipeline_is_left_as_it_was(pipe: Any) -> None:
    before = pipe.cache_params
    chosen = [Setting(interval=1), Setting(interval=2), Setting(interval=2, skip_interval=1, forecast="taylor1")]
    results = measure(pipe, chosen, steps=4, seeds=range(2))
    assert [result.setting for result in results] == chosen
    assert results[0].errors == (0.0, 0.0)
    assert all(error > 0 for result in results[1:] for error in result.errors)
    assert pipe.cache_params == before


@pytest.mark.slow
@pytest.mark.parametrize("skip_interval", [None, 1])
def test_on_digits_a_forecast_halves_the_error_of_reuse(pipe: Any, skip_interval: int | None) -> None:
    """At the same interval, and so at equal time."""
    ways = [Setting(interval=4, skip_interval=skip_interval, forecast=forecast) for forecast in (None, "taylor1")]
    _, reused, forecast = measure(pipe, [Setting(interval=1), *ways], steps=50, seeds=range(3))
    assert all(2 * ours < theirs for ours, theirs in zip(forecast.errors, reused.errors, strict=True))
