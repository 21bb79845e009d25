"""Forecasts: weights of true values by their ages, and rings that hold these."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch

from deepcache_trt.runtime.forecast import FORECASTERS, NEVER, Forecast, Forecaster, through

AGES = [(1,), (4, 1), (3, 2), (7, 5, 1), (10, 6, 3, 2)]
TAYLOR1, PARABOLA = FORECASTERS["taylor1"], Forecaster(slots=3, weights=through)
EVERY = {**FORECASTERS, "parabola": PARABOLA}


def polynomial(degree: int) -> Callable[[int], float]:
    return np.polynomial.Polynomial([2.0, -3.0, 0.5, 0.25][: degree + 1])


def weights(*ages: float) -> list[float]:
    found: list[float] = through(torch.tensor(ages)).tolist()
    return found


@pytest.mark.parametrize("ages", AGES)
def test_a_polynomial_through_all_values_is_met_exactly_at_any_distances(ages: tuple[int, ...]) -> None:
    value = polynomial(len(ages) - 1)
    assert np.dot(weights(*ages), [value(-age) for age in ages]) == pytest.approx(value(0), rel=1e-4)


def test_weights_lie_where_the_values_do_and_there_are_none_of_what_was_never_computed() -> None:
    assert weights(NEVER, NEVER) == [0, 0]
    assert weights(5, NEVER) == [1, 0]
    assert weights(4, 1) == pytest.approx([-1 / 3, 4 / 3])
    assert weights(2, 3) == pytest.approx([3, -2])
    for ages in AGES:
        for order in itertools.permutations(range(len(ages))):
            assert [weights(*ages)[i] for i in order] == pytest.approx(weights(*(ages[i] for i in order)), rel=1e-4)
        assert weights(*ages, NEVER) == [*weights(*ages), 0]
        assert sum(weights(*ages)) == pytest.approx(1, rel=1e-4)


def test_the_rows_of_many_are_the_rows_of_each() -> None:
    ages = torch.tensor([[[3.0, 1.0], [2.0, 5.0]], [[NEVER, NEVER], [4.0, NEVER]]])
    slots = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    rows = TAYLOR1.rows(ages, slots)
    assert rows.shape == (2, 2, 3)
    for i, j in itertools.product(range(2), repeat=2):
        assert rows[i, j].tolist() == [*weights(*ages[i, j].tolist()), j]


# On tensors.


def generation(forecaster: Forecaster, full: set[int], calls: int, value: Callable[[int], float]) -> list[float]:
    """What a tensor holds at each call, if it is computed at those of `full` and forecast at all others."""
    tap, found = torch.full((2, 3), torch.nan), []
    forecast = Forecast(forecaster, {"noise_pred": torch.zeros(2), "tap_0": tap})
    for call in range(calls):
        forecast.prepare()
        if call in full:
            tap.fill_(value(call))
            forecast.learn(["tap_0"])
        else:
            forecast.extrapolate(["tap_0"])
        (one,) = tap.unique().tolist()
        found.append(one)
    return found


@pytest.mark.parametrize("forecaster", EVERY.values(), ids=EVERY)
def test_one_true_value_stays_as_it_is_to_the_last_bit(forecaster: Forecaster) -> None:
    value = float(torch.tensor(0.1))
    assert generation(forecaster, {0}, 4, lambda call: value) == [value] * 4


@pytest.mark.parametrize("forecaster", EVERY.values(), ids=EVERY)
def test_a_line_is_followed_from_the_second_true_value_on(forecaster: Forecaster) -> None:
    expected = [1, 1, 1, *(1 + 2 * call for call in range(3, 16))]
    found = generation(forecaster, {0, 3, 4, 7, 12, 13}, 16, lambda call: 1 + 2 * call)
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_parabola_is_followed_from_the_third_true_value_on() -> None:
    value = polynomial(2)
    full = {0, 2, 5, 6, 10, 11, 15, 16}
    found = generation(PARABOLA, full, 20, value)
    assert found[5:] == pytest.approx([value(call) for call in range(5, 20)], rel=1e-4, abs=1e-4)


def test_a_forecast_starts_from_true_values_whatever_was_forecast_before() -> None:
    bent = {0: 1.0, 3: 7.0, 5: 8.0}
    found = generation(TAYLOR1, set(bent), 8, lambda call: bent[call])
    assert found == pytest.approx([1, 1, 1, 7, 9, 8, 8.5, 9])


def test_calls_that_extrapolate_something_else_leave_no_lag() -> None:
    """As a skipped call does, which moves the prediction alone."""
    tap = torch.zeros(4)
    forecast = Forecast(TAYLOR1, {"tap_0": tap})
    for value in (0.0, 1.0):
        forecast.prepare()
        tap.fill_(value)
        forecast.learn(["tap_0"])
    for _ in range(3):
        forecast.prepare()
    forecast.extrapolate(["tap_0"])
    assert tap.tolist() == pytest.approx([4] * 4)


@pytest.mark.parametrize("forecaster", EVERY.values(), ids=EVERY)
def test_nothing_is_left_after_forgetting_not_even_what_was_not_finite(forecaster: Forecaster) -> None:
    tap = torch.zeros(2)
    forecast = Forecast(forecaster, {"tap_0": tap})
    for _ in range(2):
        for _ in range(forecaster.slots):
            forecast.prepare()
            tap.fill_(torch.nan)
            forecast.learn(["tap_0"])
        forecast.forget()
        forecast.prepare()
        tap.fill_(2)
        forecast.learn(["tap_0"])
        forecast.prepare()
        forecast.extrapolate(["tap_0"])
        assert tap.tolist() == [2, 2]
        forecast.forget()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once_at_the_end(dtype: torch.dtype) -> None:
    """Weights in half precision would not sum to one, and large values would move by that alone."""
    tap = torch.full((3,), 1000.0, dtype=dtype)
    forecast = Forecast(PARABOLA, {"tap_0": tap})
    for call in range(10):
        forecast.prepare()
        if call in (0, 3, 7):
            forecast.learn(["tap_0"])
    forecast.extrapolate(["tap_0"])
    assert torch.equal(tap, torch.full((3,), 1000.0, dtype=dtype))


def test_large_tensors_are_worked_on_in_pieces_in_their_own_memory() -> None:
    tap = torch.arange(40_000.0).view(2, -1)
    address, start = tap.data_ptr(), tap.clone()
    forecast = Forecast(TAYLOR1, {"tap_0": tap})
    for call in range(2):
        forecast.prepare()
        tap.copy_((1 + call) * start)
        forecast.learn(["tap_0"])
    for _ in range(3):
        forecast.prepare()
    forecast.extrapolate(["tap_0"])
    torch.testing.assert_close(tap, 5 * start)
    assert tap.data_ptr() == address
