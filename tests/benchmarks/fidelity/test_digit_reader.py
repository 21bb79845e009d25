"""The classifier of digits: what it reads, and the distance between sets of pictures."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from deepcache_trt.benchmarks.fidelity.digit_reader import DigitReader, frechet_distance, real_digits, to_eight

SCRIPTS = Path(__file__).parents[3] / "scripts"


@pytest.fixture(scope="module")
def reader() -> DigitReader:
    return DigitReader()


def test_it_is_the_classifier_of_the_models_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import digits_model

    try:
        for ours, theirs in zip(real_digits(), digits_model.load_splits(), strict=True):
            assert np.array_equal(ours.images, theirs.images)
            assert np.array_equal(ours.labels, theirs.labels)
        pictures = torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(0))
        theirs = digits_model.to_eight(2 * pictures - 1)
        assert np.allclose(to_eight(pictures.numpy()), theirs, atol=1e-5)
    finally:
        sys.modules.pop("digits_model")


def test_it_reads_real_digits_that_it_was_not_fitted_to(reader: DigitReader) -> None:
    _, test = real_digits()
    assert reader.accuracy(test.images, test.labels) == pytest.approx(0.989, abs=5e-4)  # the card's figure
    assert reader.accuracy(test.images, (test.labels + 1) % 10) < 0.05


def test_real_digits_are_nearer_to_real_ones_than_spoilt_ones(reader: DigitReader) -> None:
    _, test = real_digits()
    noise = np.random.default_rng(0).normal(scale=4, size=test.images.shape)
    assert reader.frechet(test.images) < reader.frechet(test.images + noise) / 2


@pytest.mark.parametrize(
    ("shift", "scale", "distance"),
    [(0, 1, 0), (3, 1, 3 * 9), (0, 2, 3 * 1)],  # |μ|² and (σ₁ − σ₂)² in three dimensions
)
def test_the_distance_of_normal_distributions(shift: float, scale: float, distance: float) -> None:
    features = np.random.default_rng(0).normal(size=(20_000, 3))
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    assert frechet_distance(features, scale * features + shift) == pytest.approx(distance, abs=0.01)
