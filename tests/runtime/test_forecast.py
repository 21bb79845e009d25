"""Forecasts: on the line through the last two true values."""

import pytest
import torch

from deepcache_trt.runtime.forecast import Forecast


@pytest.fixture
def tap() -> torch.Tensor:
    return torch.zeros(2, 3)


@pytest.fixture
def forecast(tap: torch.Tensor) -> Forecast:
    return Forecast({"tap_0": tap, "noise_pred": torch.zeros(2)})


def learn(forecast: Forecast, tap: torch.Tensor, value: float, *, calls_since: int) -> None:
    tap.fill_(value)
    forecast.rates[0] = 1 / calls_since if calls_since else 0
    forecast.learn(["tap_0"])


def test_what_was_learnt_once_stays_as_it_is(forecast: Forecast, tap: torch.Tensor) -> None:
    learn(forecast, tap, 5, calls_since=0)
    forecast.advance(["tap_0"])
    assert tap.unique().tolist() == [5]


def test_a_line_is_followed_exactly_and_from_the_true_values(forecast: Forecast, tap: torch.Tensor) -> None:
    learn(forecast, tap, 1, calls_since=0)
    learn(forecast, tap, 7, calls_since=3)
    for expected in (9, 11):
        forecast.advance(["tap_0"])
        assert tap.unique().tolist() == [expected]
    learn(forecast, tap, 8, calls_since=2)  # half a unit for each call since the true 7, whatever was forecast
    forecast.advance(["tap_0"])
    assert tap.unique().tolist() == [8.5]


def test_each_tensor_has_a_rate_of_its_own(tap: torch.Tensor) -> None:
    prediction = torch.zeros(2)
    forecast = Forecast({"tap_0": tap, "noise_pred": prediction})
    for value, rate in ((1, 0), (3, 1)):
        prediction.fill_(value)
        forecast.rates[1] = rate
        forecast.learn(["noise_pred"])
    forecast.advance(["noise_pred"])
    assert prediction.tolist() == [5, 5]
    assert tap.unique().tolist() == [0]


def test_nothing_is_left_after_forgetting_not_even_what_was_not_finite(forecast: Forecast, tap: torch.Tensor) -> None:
    learn(forecast, tap, 1, calls_since=0)
    learn(forecast, tap, torch.nan, calls_since=1)
    forecast.forget()
    learn(forecast, tap, 2, calls_since=0)
    forecast.advance(["tap_0"])
    assert tap.unique().tolist() == [2]


def test_the_tensors_stay_in_their_memory(forecast: Forecast, tap: torch.Tensor) -> None:
    address = tap.data_ptr()
    learn(forecast, tap, 1, calls_since=0)
    forecast.advance(["tap_0"])
    assert tap.data_ptr() == address
