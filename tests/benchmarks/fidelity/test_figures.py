"""The five figures of models of ImageNet, against their definitions written out image by image."""

import math

import numpy as np
import pytest

from deepcache_trt.benchmarks.fidelity.figures import (
    Normal,
    frechet,
    inception_score,
    normal_of,
    precision_and_recall,
)

RANDOM = np.random.default_rng(0)


def features(count: int, width: int = 6, *, shift: float = 0.0) -> np.ndarray:
    mixed = RANDOM.normal(size=(width, width))
    return (RANDOM.normal(size=(count, width)) @ mixed + shift).astype(np.float32)


def plain_frechet(left: np.ndarray, right: np.ndarray) -> float:
    """By the eigenvalues of the product of the covariances, each summed up image by image."""
    means, covariances = list[np.ndarray](), list[np.ndarray]()
    for points in (left.astype(np.float64), right.astype(np.float64)):
        means.append(np.array([sum(column) / len(points) for column in points.T]))
        deviations = [np.outer(point - means[-1], point - means[-1]) for point in points]
        covariances.append(np.array(deviations).sum(axis=0) / (len(points) - 1))
    first, second = covariances
    roots = np.sqrt(np.linalg.eigvals(first @ second).astype(complex)).real
    return float(((means[0] - means[1]) ** 2).sum() + np.trace(first + second) - 2 * roots.sum())


def plain_inception_score(probabilities: np.ndarray, split: int) -> float:
    scores = []
    for begin in range(0, len(probabilities), split):
        part = probabilities[begin : begin + split].tolist()
        of_all = [sum(column) / len(part) for column in zip(*part, strict=True)]
        divergence = sum(p * math.log(p / q) for row in part for p, q in zip(row, of_all, strict=True) if p > 0) / len(
            part
        )
        scores.append(math.exp(divergence))
    return sum(scores) / len(scores)


def plain_share(points: np.ndarray, others: np.ndarray, neighbours: int) -> float:
    """Of points that are in the ball of one of the others."""
    balls = []
    for i, centre in enumerate(others):
        distances = sorted(math.dist(centre, each) for j, each in enumerate(others) if j != i)
        balls.append((centre, distances[neighbours - 1]))
    return sum(any(math.dist(point, centre) <= far for centre, far in balls) for point in points) / len(points)


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_frechet_is_the_distance_of_normal_distributions(shift: float) -> None:
    left, right = features(60), features(80, shift=shift)
    found = frechet(normal_of(left), normal_of(right))
    assert found == pytest.approx(plain_frechet(left, right), rel=1e-5)
    assert frechet(normal_of(left), normal_of(left)) == pytest.approx(0, abs=1e-4)


def test_frechet_of_fewer_images_than_features_is_finite() -> None:
    """As of a few images: then the covariances are singular."""
    left, right = features(5, 40), features(7, 40)
    assert frechet(normal_of(left), normal_of(right)) == pytest.approx(plain_frechet(left, right), rel=1e-4)


def test_frechet_of_known_distributions() -> None:
    one = Normal(mean=np.zeros(2), covariance=np.diag([1.0, 4.0]))
    other = Normal(mean=np.array([3.0, 4.0]), covariance=np.diag([9.0, 4.0]))
    assert frechet(one, other) == pytest.approx(25 + (1 - 3) ** 2)


@pytest.mark.parametrize("split", [7, 30, 100])
def test_the_inception_score_is_of_so_many_images_at_a_time(split: int) -> None:
    logits = RANDOM.normal(size=(30, 5)) * 3
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert inception_score(probabilities, split=split) == pytest.approx(plain_inception_score(probabilities, split))


def test_the_inception_score_goes_from_one_to_the_number_of_classes() -> None:
    assert inception_score(np.eye(8)) == pytest.approx(8)
    assert inception_score(np.full((10, 8), 1 / 8)) == pytest.approx(1)


@pytest.mark.parametrize("neighbours", [1, 3])
@pytest.mark.parametrize("batch", [7, 1000])
@pytest.mark.parametrize("shift", [0.0, 1.5, 100.0])
def test_precision_and_recall_are_shares_of_balls(shift: float, batch: int, neighbours: int) -> None:
    drawn, real = RANDOM.normal(size=(40, 3)) + shift, RANDOM.normal(size=(30, 3)) * 1.5
    found = precision_and_recall(drawn, real, neighbours=neighbours, batch=batch)
    assert found == (plain_share(drawn, real, neighbours), plain_share(real, drawn, neighbours))
    assert found == (0, 0) or shift < 100


def test_precision_and_recall_of_the_same_images_are_one() -> None:
    points = features(20)
    assert precision_and_recall(points, points) == (1, 1)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="3 images have no 3 neighbours each; give more images"):
        precision_and_recall(features(10), features(3))
