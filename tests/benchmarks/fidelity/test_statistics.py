"""Statistics of features and their distance, beside second implementations."""

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg

from deepcache_trt.benchmarks.fidelity.statistics import (
    Statistics,
    frechet,
    load_statistics,
    save_statistics,
    statistics_of,
)
from deepcache_trt.errors import DeepCacheError


def features(count: int, seed: int, size: int = 12) -> np.ndarray:
    """Correlated, and far from the origin, where sums of squares would lose digits."""
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(count, size)) @ np.random.default_rng(9).normal(size=(size, size)) + 1e4 + seed
    return mixed.astype(np.float32)


def of(*batches: np.ndarray, extractor: str = "made up") -> Statistics:
    return statistics_of(batches, extractor=extractor, resize="none", name="these")


@pytest.mark.parametrize("cuts", [[], [1], [7, 8, 30], [1, 2, 3]])
def test_batch_by_batch_they_are_those_of_all(cuts: list[int]) -> None:
    whole = features(40, 0)
    found = of(*np.split(whole, cuts))
    assert found.count == 40
    assert np.allclose(found.mean, whole.astype(np.float64).mean(axis=0), rtol=1e-14)
    assert np.allclose(found.covariance, np.cov(whole.astype(np.float64), rowvar=False), rtol=1e-10)


@pytest.mark.parametrize(("left", "right"), [(50, 60), (5, 60), (5, 4)])  # few images have a singular covariance
def test_the_distance_is_that_of_another_square_root(left: int, right: int) -> None:
    first, second = of(features(left, 0)), of(features(right, 1))
    apart = first.mean - second.mean
    # Regularized as other programs do where the product of the covariances is singular.
    a, b = (each.covariance + 1e-9 * np.eye(12) for each in (first, second))
    root = scipy.linalg.sqrtm(a @ b).real
    expected = apart @ apart + np.trace(a + b - 2 * root)
    assert frechet(first, second) == pytest.approx(expected, rel=1e-3 if min(left, right) < 12 else 1e-8)
    assert frechet(second, first) == pytest.approx(frechet(first, second), rel=1e-6)
    assert frechet(first, first) == pytest.approx(0, abs=1e-6)


def test_saved_ones_come_back(tmp_path: Path) -> None:
    saved, path = of(features(9, 0)), tmp_path / "new" / "these.npz"
    save_statistics(saved, path)
    found = load_statistics(path)
    assert np.array_equal(found.mean, saved.mean)
    assert np.array_equal(found.covariance, saved.covariance)
    assert (found.count, found.extractor, found.resize) == (9, "made up", "none")
    assert [each.name for each in path.parent.iterdir()] == ["these.npz"]


def test_what_means_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeepCacheError, match="these has 1 of the 2 images that a covariance wants at least"):
        of(features(1, 0))
    with pytest.raises(DeepCacheError, match="extractor 'made up' cannot be compared with those of extractor 'other'"):
        frechet(of(features(9, 0)), of(features(9, 0), extractor="other"))
    path = tmp_path / "foreign.npz"
    np.savez(path, mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(DeepCacheError, match="does not say its count, extractor, resize, without which"):
        load_statistics(path)
    np.savez(path, mu=np.zeros(3), sigma=np.eye(4), count=5, extractor="x", resize="y")
    with pytest.raises(DeepCacheError, match=r"a mean \(3,\) and a covariance \(4, 4\) of 5 images, which is no"):
        load_statistics(path)
