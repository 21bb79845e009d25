"""The scale of an activation: the one with the least error over what was seen, whatever came first."""

import numpy as np
import pytest
import torch

from deepcache_trt.export.precision import FP8, INT8
from deepcache_trt.export.ranges import Magnitudes


def scale_of(*tensors: torch.Tensor) -> float:
    seen = Magnitudes()
    for tensor in tensors:
        seen.add(tensor)
    return seen.scale(INT8)


def error(tensor: torch.Tensor, scale: float) -> float:
    back = (tensor / scale).round().clamp(-INT8.largest, INT8.largest) * scale
    return float(((tensor - back) ** 2).mean())


@pytest.mark.parametrize("kind", ["normal", "laplace", "uniform", "outlier"])
def test_no_other_end_of_the_range_has_a_much_smaller_error(kind: str) -> None:
    dice = np.random.default_rng(0)
    drawn = {
        "normal": dice.standard_normal(50_000),
        "laplace": dice.laplace(size=50_000),
        "uniform": dice.uniform(-3, 3, 50_000),
        "outlier": np.append(dice.standard_normal(50_000), 40.0),
    }[kind]
    tensor = torch.from_numpy(drawn).float()
    largest = float(tensor.abs().max())
    best = min(error(tensor, share * largest / INT8.largest) for share in np.linspace(0.02, 1, 400))
    assert error(tensor, scale_of(tensor)) <= 1.05 * best


def test_what_is_seen_in_pieces_of_any_size_of_values_is_what_is_seen_at_once() -> None:
    generator = torch.Generator().manual_seed(0)
    pieces = [torch.randn(1000, generator=generator) * size for size in (0.01, 1.0, 0.3, 20.0)]
    together = torch.cat(pieces)
    assert error(together, scale_of(*pieces)) <= 1.05 * error(together, scale_of(together))


def test_a_range_does_not_grow_with_an_outlier_as_far_as_that_reaches() -> None:
    tensor = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    outlier = torch.tensor([30.0])
    assert scale_of(tensor, outlier) < 25.0 / INT8.largest


def test_the_same_tensors_have_the_same_scale() -> None:
    tensors = [torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    assert scale_of(*tensors) == scale_of(*tensors)


def test_zeros_and_nothing_at_all_have_a_scale_that_divides() -> None:
    assert scale_of(torch.zeros(4)) > 0
    assert scale_of(torch.zeros(0)) > 0
    assert scale_of() > 0


def test_numbers_whose_steps_grow_with_them_reach_the_largest() -> None:
    seen = Magnitudes()
    seen.add(torch.tensor([0.1, -7.0, 3.0]))
    assert seen.scale(FP8) == pytest.approx(7 / FP8.largest)
