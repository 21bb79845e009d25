"""Reads the pictures of the bundled model: the classifier that its card is measured with.

A support vector machine on scikit-learn's handwritten digits (N, 8, 8) in 0…16, which is what `digits` was trained on.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from deepcache_trt.benchmarks.fidelity.figures import frechet, normal_of

_SIDE, _INK = 8, 16  # the data has so many pixels a side, and this is its darkest value
_SPLIT_SEED = 0


@dataclass(frozen=True)
class Split:
    """One split of the real data: images (N, 8, 8) in 0…16, labels (N,)."""

    images: np.ndarray
    labels: np.ndarray


def real_digits() -> tuple[Split, Split]:
    """The fixed, stratified 80/20 split of the real data: what the model was trained on, and the rest.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data: Any = load_digits()
    train, test, train_labels, test_labels = train_test_split(
        data.images, data.target, test_size=0.2, random_state=_SPLIT_SEED, stratify=data.target
    )
    return Split(train, train_labels), Split(test, test_labels)


def to_eight(pictures: np.ndarray) -> np.ndarray:
    """Pictures [N, 3, H, W] in 0…1, dark on white, as the data is: (N, 8, 8) in 0…16, by averaging areas."""
    grey = pictures.mean(axis=1)
    count, height, width = grey.shape
    areas = grey.reshape(count, _SIDE, height // _SIDE, _SIDE, width // _SIDE)
    shown: np.ndarray = _INK * (1 - areas.mean(axis=(2, 4)))
    return shown


class DigitReader:
    """The classifier, fitted to the real training split in a fraction of a second."""

    def __init__(self) -> None:
        """Fit it.

        Raises:
            ImportError: scikit-learn is not installed.
        """
        from sklearn.svm import SVC

        self._train, _ = real_digits()
        # One margin for each pair of digits: 45 features, on which `frechet` works.
        self._classifier = SVC(C=10, gamma=0.001, decision_function_shape="ovo")
        self._classifier.fit(_flat(self._train.images), self._train.labels)

    def read(self, images: np.ndarray) -> np.ndarray:
        """The digits (N,) that images (N, 8, 8) in 0…16 show."""
        digits: np.ndarray = self._classifier.predict(_flat(images))
        return digits

    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        """The share of images (N, 8, 8) that are read as the digits (N,) that were asked for."""
        return float(np.mean(self.read(images) == labels))

    def frechet(self, images: np.ndarray, real: np.ndarray | None = None) -> float:
        """The Fréchet distance between images (N, 8, 8) and real ones, in the classifier's 45 margins.

        What a few hundred images give is comparable only with as many others.

        Args:
            images: in 0…16.
            real: what they are compared with, (M, 8, 8) in 0…16; None: the training images.
        """
        return frechet_distance(self.margins(images), self._real if real is None else self.margins(real))

    def margins(self, images: np.ndarray) -> np.ndarray:
        """Of images (N, 8, 8) in 0…16, a margin for each pair of digits, (N, 45): above 0 it is the smaller one."""
        margins: np.ndarray = self._classifier.decision_function(_flat(images))
        return margins

    @cached_property
    def _real(self) -> np.ndarray:
        return self.margins(self._train.images)


def duels_won(margins: np.ndarray) -> np.ndarray:
    """Of each digit the share of all duels that it wins, (N, 10), from the margins (N, 45); rows sum to 1."""
    won = np.zeros([len(margins), 10])
    for duel, (smaller, larger) in enumerate(combinations(range(10), 2)):
        won[:, smaller] += margins[:, duel] > 0
        won[:, larger] += margins[:, duel] <= 0
    won /= margins.shape[1]
    return won


def frechet_distance(left: np.ndarray, right: np.ndarray) -> float:
    """Between the normal distributions of two sets of features (N, D)."""
    return frechet(normal_of(left), normal_of(right))


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)
