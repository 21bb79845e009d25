"""Mean and covariance of features of many images, and the Fréchet distance of two such.

A file of them is a .npz with `mu` [D] and `sigma` [D, D], as other programs have it, and with `count`, `extractor` and
`resize`, without which a distance means nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepcache_trt.benchmarks.fidelity import figures
from deepcache_trt.documents import read_arrays
from deepcache_trt.errors import DeepCacheError, first_line

_FIELDS = ("mu", "sigma", "count", "extractor", "resize")
_FEWEST = 2  # images that have a covariance


@dataclass(frozen=True, kw_only=True, eq=False)
class Statistics:
    """Of the features of images.

    Attributes:
        mean: [D] float64.
        covariance: [D, D] float64, over the count minus one.
        count: of images.
        extractor: what makes features of an image, by its name.
        resize: how images were brought to its size.
    """

    mean: np.ndarray
    covariance: np.ndarray
    count: int
    extractor: str
    resize: str


def statistics_of(batches: Iterable[np.ndarray], *, extractor: str, resize: str, name: str) -> Statistics:
    """Of features that come batch by batch (Chan, Golub and LeVeque 1979); no more than one batch is held.

    Args:
        batches: [N, D] each.
        extractor: see `Statistics`.
        resize: see `Statistics`.
        name: of the images, for messages.

    Raises:
        DeepCacheError: fewer than two images.
    """
    count, mean, scatter = 0, np.zeros(()), np.zeros(())
    for batch in batches:
        features = batch.astype(np.float64)
        own = features.mean(axis=0)
        apart, total = own - mean, count + len(features)
        centred = features - own
        scatter = scatter + centred.T @ centred + np.outer(apart, apart) * (count * len(features) / total)
        mean, count = mean + apart * (len(features) / total), total
    if count < _FEWEST:
        raise DeepCacheError(f"{name} has {count} of the {_FEWEST} images that a covariance wants at least; give more")
    return Statistics(mean=mean, covariance=scatter / (count - 1), count=count, extractor=extractor, resize=resize)


def frechet(first: Statistics, second: Statistics) -> float:
    """The Fréchet distance of two normal distributions, which FID is of Inception's features.

    Raises:
        DeepCacheError: they are of different features.
    """
    for what in ("extractor", "resize"):
        ours, theirs = getattr(first, what), getattr(second, what)
        if ours != theirs:
            raise DeepCacheError(
                f"statistics of {what} {ours!r} cannot be compared with those of {what} {theirs!r}; make both with one "
                f"--extractor"
            )
    normals = (figures.Normal(mean=each.mean, covariance=each.covariance) for each in (first, second))
    return figures.frechet(*normals)


def save_statistics(statistics: Statistics, path: Path) -> None:
    """Write a file of them; it is there as a whole or not.

    Raises:
        DeepCacheError: it cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    values = (statistics.mean, statistics.covariance, statistics.count, statistics.extractor, statistics.resize)
    arrays = {name: np.asarray(value) for name, value in zip(_FIELDS, values, strict=True)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        partial.replace(path)
    except OSError as error:
        raise DeepCacheError(f"cannot write {path}: {error.strerror}; choose another file") from error


def load_statistics(path: Path) -> Statistics:
    """Read a file of them.

    Raises:
        DeepCacheError: it is none, or does not say of which features.
    """
    try:
        found = read_arrays(path, _FIELDS)
    except (OSError, ValueError) as error:
        raise DeepCacheError(f"cannot read {path}: {first_line(error)}; write it again with --save-stats") from error
    if missing := [name for name in _FIELDS if name not in found]:
        raise DeepCacheError(
            f"{path} does not say its {', '.join(missing)}, without which a distance means nothing; make it anew from "
            f"the images with --save-stats"
        )
    size = found["mu"].size
    if found["mu"].shape != (size,) or found["sigma"].shape != (size, size) or int(found["count"]) < _FEWEST:
        raise DeepCacheError(
            f"{path} holds a mean {found['mu'].shape} and a covariance {found['sigma'].shape} of {int(found['count'])} "
            f"images, which is no statistics of {_FEWEST} or more; make it anew with --save-stats"
        )
    return Statistics(
        mean=found["mu"].astype(np.float64),
        covariance=found["sigma"].astype(np.float64),
        count=int(found["count"]),
        extractor=str(found["extractor"]),
        resize=str(found["resize"]),
    )
