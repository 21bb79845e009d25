"""Fidelity: the arithmetic, and what is said where a package or its weights are not there."""

import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from deepcache_trt.benchmarks.fidelity.distances import comparisons, decibels, latent_distances, psnr, relative_error

RANDOM = np.random.default_rng(0)
PICTURES = RANDOM.random((2, 3, 32, 32), dtype=np.float32)


def noisy(amount: float) -> np.ndarray:
    noise = np.random.default_rng(1).standard_normal(PICTURES.shape)
    return (PICTURES + amount * noise).clip(0, 1).astype(np.float32)


def test_latents_are_compared_by_their_differences() -> None:
    reference = np.array([[0.0, 4.0]], dtype=np.float32)
    assert latent_distances(reference, np.array([[1.0, 4.0]], dtype=np.float32)) == {
        "mse": 0.5,
        "error": 0.25,
        "max_abs": 1.0,
        "psnr_db": pytest.approx(10 * np.log10(16 / 0.5)),
    }


def test_what_is_no_finite_number_is_none() -> None:
    reference = np.array([[0.0, 4.0]], dtype=np.float32)
    assert latent_distances(reference, reference) == {"mse": 0.0, "error": 0.0, "max_abs": 0.0, "psnr_db": None}
    assert set(latent_distances(reference, reference * np.nan).values()) == {None}


@pytest.mark.parametrize(("mse", "peak", "found"), [(1, 1, 0), (0.01, 1, 20), (255**2, 255, 0), (0, 1, math.inf)])
def test_decibels(mse: float, peak: float, found: float) -> None:
    assert decibels(mse, peak) == pytest.approx(found)


def test_psnr_of_a_batch_is_that_of_its_mean_squared_error() -> None:
    other = PICTURES.copy()
    other[0] += 0.1  # of two pictures one: half of 0.01
    assert psnr(PICTURES, other) == pytest.approx(10 * math.log10(1 / 0.005), rel=1e-4)


def test_a_relative_error_is_that_of_the_norms() -> None:
    assert relative_error(np.array([3.0, 4.0]), np.array([3.0, 3.0])) == pytest.approx(1 / 5)


def test_ssim_is_one_for_equal_pictures_and_falls_with_noise() -> None:
    pytest.importorskip("torchmetrics")
    ssim = comparisons().functions["ssim"]
    assert ssim(PICTURES, PICTURES) == pytest.approx(1)
    assert ssim(PICTURES, noisy(0.05)) > ssim(PICTURES, noisy(0.3)) > 0


@pytest.mark.parametrize(
    ("package", "figure", "cure"),
    [
        ("torchmetrics.functional.image", "ssim", r"pip install 'deepcache-trt\[eval\]'"),
        ("torchvision", "lpips", r"let it download AlexNet's weights once, or put alexnet-.*\.pth into \$TORCH_HOME"),
    ],
)
def test_a_figure_without_its_package_is_absent_with_the_cure(
    package: str, figure: str, cure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    found = comparisons()
    assert figure not in found.functions
    assert "psnr_db" in found.functions
    assert re.search(cure, found.absent[figure])


def test_lpips_is_nothing_for_equal_pictures_and_rises_with_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With random weights in the place where AlexNet's are looked for."""
    torchvision = pytest.importorskip("torchvision")
    import torch

    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), folder / "alexnet-owt-7be5be79.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    lpips = comparisons().functions["lpips"]
    large = [np.kron(pictures, np.ones((2, 2), dtype=np.float32)) for pictures in (PICTURES, noisy(0.05), noisy(0.3))]
    assert lpips(large[0], large[0]) == pytest.approx(0, abs=1e-6)
    assert 0 < lpips(large[0], large[1]) < lpips(large[0], large[2])
