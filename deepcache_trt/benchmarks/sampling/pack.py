"""Samples in one file: a .npz as the evaluator of guided diffusion reads it (Dhariwal and Nichol 2021).

arr_0 is [N, H, W, 3] uint8, in the order of the indices; arr_1 is [N] int64, the classes, where there are any.
"""

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepcache_trt.benchmarks.report import write_json
from deepcache_trt.benchmarks.sampling.place import check_settings, image_name, written
from deepcache_trt.errors import DeepCacheError


def parts_of(out: Path) -> Path:
    """The folder of images beside a file, until all of them are in it."""
    return out.with_name(f"{out.name}.parts")


def is_packed(out: Path, settings: Mapping[str, Any]) -> bool:
    """Whether the file is there, of the same settings.

    Raises:
        DeepCacheError: it is there with other settings, or none beside it.
    """
    if not out.exists():
        return False
    record = _record_of(out)
    if not record.exists():
        raise DeepCacheError(f"{out} is there already, and no {record.name} beside it; choose another --out")
    check_settings(record, settings)
    return True


def pack(images: Path, indices: Sequence[int], labels: Sequence[int], settings: Mapping[str, Any], out: Path) -> None:
    """Put images together; the file is there as a whole or not at all, and its settings beside it.

    Args:
        images: the folder with all of them.
        indices: which, in order.
        labels: the class of each; none: there are no classes.
        settings: see `is_packed`.
        out: the file.
    """
    partial = out.with_name(f"{out.name}.partial")
    with written(out):
        shape = (len(indices), *_pixels(images, indices[0]).shape)
        with zipfile.ZipFile(partial, "w") as archive:
            _write_array(archive, "arr_0", "|u1", shape, (_pixels(images, index).tobytes() for index in indices))
            if labels:
                numbers = np.asarray(labels, dtype="<i8")
                _write_array(archive, "arr_1", "<i8", numbers.shape, [numbers.tobytes()])
        write_json(_record_of(out), dict(settings))
        partial.replace(out)


def _record_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.json")


def _pixels(images: Path, index: int) -> np.ndarray:
    from PIL import Image

    with Image.open(images / image_name(index)) as image:
        return np.asarray(image.convert("RGB"))


def _write_array(
    archive: zipfile.ZipFile, name: str, dtype: str, shape: tuple[int, ...], parts: Iterable[bytes]
) -> None:
    """An array, part by part: that of 50,000 images does not fit into every memory."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        header = {"descr": dtype, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(part)
