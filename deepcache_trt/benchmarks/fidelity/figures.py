"""The five figures that models of ImageNet are compared by, of what an Inception network says of their images.

As the evaluator of Dhariwal and Nichol (2021) has them: Inception score of its probabilities, FID of its pooled
features and sFID of its spatial ones, precision and recall of the pooled features. All are of arrays; no network here.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# Images that one Inception score is of; that of more is the mean over so many at a time.
SPLIT = 5_000

# Which of its neighbours a point's ball reaches to (Kynkäänniemi et al. 2019).
NEIGHBOURS = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Normal:
    """A normal distribution: its mean (D,) and covariance (D, D)."""

    mean: np.ndarray
    covariance: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """What a network says of N images.

    Attributes:
        pooled: [N, D], where in an image something is left out.
        spatial: [N, S], coarser in what and finer in where.
        probabilities: [N, C], of the classes of each image.
    """

    pooled: np.ndarray
    spatial: np.ndarray
    probabilities: np.ndarray


def figures_of(drawn: Reading, real: Reading) -> dict[str, float]:
    """All five, by name.

    Raises:
        ValueError: fewer images than precision and recall need.
    """
    precision, recall = precision_and_recall(drawn.pooled, real.pooled)
    return {
        "inception_score": inception_score(drawn.probabilities),
        "fid": frechet(normal_of(drawn.pooled), normal_of(real.pooled)),
        "sfid": frechet(normal_of(drawn.spatial), normal_of(real.spatial)),
        "precision": precision,
        "recall": recall,
    }


def normal_of(features: np.ndarray) -> Normal:
    """That of features (N, D)."""
    return Normal(mean=features.mean(axis=0), covariance=np.atleast_2d(np.cov(features, rowvar=False)))


def frechet(left: Normal, right: Normal) -> float:
    """|μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½) (Dowson and Landau 1982).

    FID of pooled features, 2048 of each image, sFID of spatial ones, the first 7 channels of 17×17 (Nash et al. 2021).
    """
    between = left.mean - right.mean
    values, vectors = np.linalg.eigh(left.covariance)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    # Σ₁ Σ₂ and Σ₁^½ Σ₂ Σ₁^½ have the same eigenvalues, and the latter is symmetric.
    shared = np.sqrt(np.linalg.eigvalsh(root @ right.covariance @ root).clip(min=0)).sum()
    distance = float(between @ between + np.trace(left.covariance) + np.trace(right.covariance) - 2 * shared)
    return max(distance, 0.0)  # roots of singular covariances round to a little too much


def inception_score(probabilities: np.ndarray, *, split: int = SPLIT) -> float:
    """exp of the mean KL divergence of each image's classes from all images' (Salimans et al. 2016).

    Args:
        probabilities: of the classes of each image, (N, C); rows sum to 1.
        split: how many images a score is of; the mean over them is returned.
    """
    scores = []
    for begin in range(0, len(probabilities), split):
        part = probabilities[begin : begin + split].astype(np.float64)
        entropies = _entropy(part)
        # The mean divergence from the mean is the entropy of the mean less the mean entropy.
        scores.append(np.exp(_entropy(part.mean(axis=0)) - entropies.mean()))
    return float(np.mean(scores))


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    """Over the last axis, in nats; what is impossible adds nothing."""
    positive = np.where(probabilities > 0, probabilities, 1.0)
    entropy: np.ndarray = -(positive * np.log(positive)).sum(axis=-1)
    return entropy


def precision_and_recall(
    drawn: np.ndarray, real: np.ndarray, *, neighbours: int = NEIGHBOURS, batch: int = 1_000
) -> tuple[float, float]:
    """The shares of drawn points among the real ones, and of real points among the drawn (Kynkäänniemi et al. 2019).

    A point is among others if it lies in the ball of one of them, which reaches to its nearest neighbour of a number.

    Args:
        drawn: features of drawn images, (N, D).
        real: of real ones, (M, D).
        neighbours: that number.
        batch: how many points are compared with all others at a time.

    Raises:
        ValueError: fewer points than neighbours.
    """
    for points in (drawn, real):
        if len(points) <= neighbours:
            raise ValueError(f"{len(points)} images have no {neighbours} neighbours each; give more images")
    return _share_among(drawn, real, neighbours, batch), _share_among(real, drawn, neighbours, batch)


def _share_among(points: np.ndarray, others: np.ndarray, neighbours: int, batch: int) -> float:
    # The nearest of all is each point itself.
    sorted_far = (np.partition(each, neighbours, axis=1) for each in _squares(others, others, batch))
    radii = np.concatenate([each[:, neighbours] for each in sorted_far])
    is_inside = [(each <= radii).any(axis=1) for each in _squares(points, others, batch)]
    return float(np.concatenate(is_inside).mean())


def _squares(left: np.ndarray, right: np.ndarray, batch: int) -> Iterator[np.ndarray]:
    """Squared distances (batch, M) of points (N, D) from others (M, D), a batch at a time."""
    left, right = left.astype(np.float64), right.astype(np.float64)
    norms = (right**2).sum(axis=1)
    for begin in range(0, len(left), batch):
        part = left[begin : begin + batch]
        yield ((part**2).sum(axis=1)[:, None] + norms - 2 * part @ right.T).clip(min=0)
