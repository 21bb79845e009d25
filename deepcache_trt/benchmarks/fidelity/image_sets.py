"""Collections of images and their statistics: folders, arrays in a .npz, or statistics that were saved."""

import hashlib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from deepcache_trt.benchmarks.fidelity.extractors import Extractor
from deepcache_trt.benchmarks.fidelity.figures import Reading
from deepcache_trt.benchmarks.fidelity.scores import images_in
from deepcache_trt.benchmarks.fidelity.statistics import (
    Statistics,
    load_statistics,
    save_statistics,
    statistics_of,
)
from deepcache_trt.documents import check_plain, read_arrays
from deepcache_trt.errors import DeepCacheError, first_line

# What a .npz of images has, and what one of statistics has.
_IMAGES, _MEAN = "arr_0", "mu"


def statistics_from(
    path: Path,
    extractor: Extractor,
    *,
    cache: Path,
    images: int | None = None,
    batch: int = 50,
    seen: Callable[[int], None] = lambda count: None,
) -> Statistics:
    """The statistics of a collection, which are computed once for the same files.

    Args:
        path: a folder of PNG or JPEG, a .npz of images [N, H, W, 3] uint8 as "arr_0", or saved statistics.
        extractor: of the features; one that the statistics at hand do without is not loaded.
        cache: a folder for those that are computed.
        images: take the first so many, by name; None: all.
        batch: images at a time.
        seen: is told how many images have been read.

    Raises:
        DeepCacheError: no such collection, saved statistics of other features, or too few images.
    """
    if is_of_statistics(path):
        return _saved(path, extractor, images)
    cached = cache / f"{_digest(path, extractor, images)}.npz"
    if cached.exists():
        return load_statistics(cached)
    batches = _batches(path, images, batch)
    read = extractor.loaded()

    def found() -> Iterator[np.ndarray]:
        count = 0
        for pixels in batches:
            yield read(pixels).pooled
            count += len(pixels)
            seen(count)

    statistics = statistics_of(found(), extractor=extractor.name, resize=extractor.resize, name=str(path))
    save_statistics(statistics, cached)
    return statistics


def read_images(
    path: Path,
    extractor: Extractor,
    *,
    images: int | None = None,
    batch: int = 50,
    seen: Callable[[int], None] = lambda count: None,
) -> Reading:
    """What an extractor says of each image of a collection; all of it is in memory.

    Args:
        path: a folder of PNG or JPEG, or a .npz of images [N, H, W, 3] uint8 as "arr_0".
        extractor: that reads them.
        images: see `statistics_from`.
        batch: see there.
        seen: see there.

    Raises:
        DeepCacheError: no such collection, or none in it.
    """
    check_images(path)
    batches, read, parts = _batches(path, images, batch), extractor.loaded(), list[Reading]()
    for pixels in batches:
        parts.append(read(pixels))
        seen(sum(len(each.pooled) for each in parts))
    if not parts:
        raise DeepCacheError(f"{path} has no images; give a folder or a .npz that has")
    return Reading(
        pooled=np.concatenate([each.pooled for each in parts]),
        spatial=np.concatenate([each.spatial for each in parts]),
        probabilities=np.concatenate([each.probabilities for each in parts]),
    )


def is_of_statistics(path: Path) -> bool:
    """Whether a file holds saved statistics."""
    return _MEAN in _arrays(path)


def check_images(path: Path) -> None:
    """Raise DeepCacheError for what holds no images, before any are read."""
    if is_of_statistics(path):
        raise DeepCacheError(
            f"{path} holds the statistics of images, from which FID alone can be had; give the images, or eval fid"
        )
    if not (path.is_dir() or _IMAGES in _arrays(path)):
        raise DeepCacheError(f"{path} is no folder of images and no .npz with images as {_IMAGES}; give one of these")


def _batches(path: Path, images: int | None, batch: int) -> Iterator[np.ndarray]:
    """Images [N, H, W, 3] uint8, so many at a time."""
    if path.is_dir():
        return _of_folder(path, images, batch)
    if _IMAGES in _arrays(path):
        return _of_array(path, images, batch)
    raise DeepCacheError(
        f"{path} is no folder of images, no .npz with images as {_IMAGES}, and no statistics; give one of these"
    )


def _saved(path: Path, extractor: Extractor, images: int | None) -> Statistics:
    statistics = load_statistics(path)
    ours = (extractor.name, extractor.resize)
    theirs = (statistics.extractor, statistics.resize)
    if theirs != ours:
        raise DeepCacheError(
            f"{path} holds statistics of {', '.join(map(repr, theirs))}, and --extractor {extractor.option} means "
            f"{', '.join(map(repr, ours))}; give the extractor that they were made with, or the images"
        )
    if images is not None and images != statistics.count:
        raise DeepCacheError(
            f"{path} holds statistics of {statistics.count} images, of which {images} cannot be chosen; leave --images "
            f"out"
        )
    return statistics


def _arrays(path: Path) -> list[str]:
    """The names of the arrays in a file, none where it is no .npz."""
    try:
        check_plain(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DeepCacheError(f"cannot read {path}: {error.strerror}; give a folder of images, or a .npz") from error
    if not zipfile.is_zipfile(path):
        return []
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def _of_folder(folder: Path, images: int | None, batch: int) -> Iterator[np.ndarray]:
    from PIL import Image

    files = images_in(folder)[:images]
    for start in range(0, len(files), batch):
        pixels = []
        for file in files[start : start + batch]:
            try:
                with Image.open(file) as image:
                    pixels.append(np.asarray(image.convert("RGB")))
            except OSError as error:
                raise DeepCacheError(f"cannot read {file}: {error}; draw it again, or take it away") from error
            if pixels[-1].shape != pixels[0].shape:
                (height, width, _), (high, wide, _) = pixels[-1].shape, pixels[0].shape
                raise DeepCacheError(
                    f"{file} has {height}×{width} pixels, and those before it {high}×{wide}; give images of one size"
                )
        yield np.stack(pixels)


def _of_array(path: Path, images: int | None, batch: int) -> Iterator[np.ndarray]:
    try:
        pixels = read_arrays(path, [_IMAGES])[_IMAGES][:images]
    except (OSError, ValueError, LookupError) as error:
        raise DeepCacheError(f"cannot read {path}: {first_line(error)}; write it again") from error
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise DeepCacheError(
            f"{_IMAGES} of {path} is {list(pixels.shape)} {pixels.dtype}; give images as [N, H, W, 3] uint8"
        )
    for start in range(0, len(pixels), batch):
        yield pixels[start : start + batch]


def _digest(path: Path, extractor: Extractor, images: int | None) -> str:
    """Of the names, sizes and times of the files, and of all that makes features of them."""
    files = images_in(path)[:images] if path.is_dir() else [path] if path.exists() else []
    digest = hashlib.blake2b(digest_size=16)
    for part in (extractor.name, extractor.resize, str(images), str(path.resolve())):
        digest.update(part.encode() + b"\0")
    for file in files:
        stat = file.stat()
        digest.update(f"{file.name}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return digest.hexdigest()
