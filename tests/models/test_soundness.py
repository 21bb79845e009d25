"""NaN, infinity and nothing at all are named where they come from."""

import pytest
import torch

from deepcache_trt.errors import BackendError, UnsupportedError
from deepcache_trt.models.calls import check_given, check_made

FINE = {"sample": torch.ones(2, 3), "ids": torch.tensor([1, 2])}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_they_are_counted(bad: float, dtype: torch.dtype) -> None:
    made = {**FINE, "noise_pred": torch.tensor([1.0, bad, bad], dtype=dtype)}
    with pytest.raises(BackendError, match="the engines of x unet gave 2 NaN or infinite values of 3 in noise_pred"):
        check_made("the engines of x unet", made)


def test_nothing_but_zeros_is_nothing() -> None:
    with pytest.raises(BackendError, match="engines gave nothing but zeros in noise_pred"):
        check_made("engines", {**FINE, "noise_pred": torch.zeros(2, 3)})
    check_made("engines", {"ids": torch.tensor([0]), "none": torch.zeros(0), "noise_pred": torch.tensor([0.0, 1e-7])})


def test_an_argument_is_called_as_in_diffusers() -> None:
    with pytest.raises(UnsupportedError, match=r"1 of 2 values of latents that unet is given"):
        check_given("unet", {"sample": torch.tensor([1.0, float("nan")])})
    check_given("unet", {"sample": torch.zeros(2)})  # a picture may begin with what it likes


def test_what_is_given_is_looked_at_first() -> None:
    bad = {"sample": torch.tensor([float("nan")])}
    with pytest.raises(UnsupportedError):
        check_made("engines", bad, given=lambda: check_given("unet", bad))
    with pytest.raises(BackendError):
        check_made("engines", bad, given=lambda: check_given("unet", FINE))
    check_made("engines", FINE, given=lambda: check_given("unet", bad))  # a mask may be of infinities
