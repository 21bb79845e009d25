"""NaN and infinity are named where they come from."""

import pytest
import torch

from deepcache_trt.errors import BackendError, UnsupportedError
from deepcache_trt.models.calls import check_given, check_made, check_sound, unsound

FINE = {"sample": torch.ones(2, 3), "ids": torch.tensor([1, 2])}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_they_are_counted(bad: float, dtype: torch.dtype) -> None:
    assert unsound({**FINE, "y": torch.tensor([1.0, bad, bad], dtype=dtype)}) == {"y": 2}
    assert unsound(FINE) == {}
    assert unsound({"ids": torch.tensor([1])}) == {}


def test_an_argument_is_called_as_in_diffusers() -> None:
    with pytest.raises(UnsupportedError, match=r"1 of 2 values of latents that unet is given"):
        check_given("unet", {"sample": torch.tensor([1.0, float("nan")])})


def test_engines_are_named() -> None:
    with pytest.raises(BackendError, match="the engines of x unet gave 1 NaN or infinite values of 1 in noise_pred"):
        check_made("the engines of x unet", {"noise_pred": torch.tensor([float("inf")])})


def test_what_is_given_is_looked_at_first() -> None:
    bad = {"sample": torch.tensor([float("nan")])}
    with pytest.raises(UnsupportedError):
        check_sound("unet", "engines", bad, bad)
    with pytest.raises(BackendError):
        check_sound("unet", "engines", FINE, bad)
    check_sound("unet", "engines", FINE, FINE)
    check_sound("unet", "engines", bad, FINE)  # a mask may be of infinities
