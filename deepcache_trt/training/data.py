"""Where images come from: scikit-learn's digits, a folder of pictures, or latents in an .npz file."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from deepcache_trt.documents import read_arrays
from deepcache_trt.errors import DeepCacheError, first_line
from deepcache_trt.training.examples import Label, Source

_BATCH = 32  # images that are read and encoded together
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
_FORMS = "a folder with a folder of images for each class or prompt, or an .npz file with latents and labels or prompts"


def digits(size: int, *, prompts: Sequence[str] | None) -> Source:
    """The training split of the digits as pictures, enlarged and in dark ink on white.

    Args:
        size: pixels of a side.
        prompts: of the ten digits; None: their numbers are classes.

    Raises:
        DeepCacheError: scikit-learn is not installed.
    """
    from deepcache_trt.benchmarks.fidelity.digit_reader import real_digits

    try:
        split, _ = real_digits()
    except ImportError as error:
        raise DeepCacheError(
            "the digits are scikit-learn's; pip install 'deepcache-trt[eval]', or give --data"
        ) from error
    ink = torch.from_numpy(split.images).float()[:, None] / 16
    large = torch.nn.functional.interpolate(ink, size=(size, size), mode="bicubic", align_corners=False)
    pictures = (1 - 2 * large.clamp(0, 1)).expand(-1, 3, -1, -1)
    labels = [int(label) for label in split.labels]
    return Source(tensors=pictures.split(_BATCH), labels=labels if prompts is None else [prompts[i] for i in labels])


def read_data(path: Path, size: tuple[int, int], *, classes: bool) -> Source:
    """Images of a folder, or latents of an .npz file.

    A folder has one for each class, whose number is its place among their names, or for each prompt, which is its name.

    Args:
        path: of either.
        size: height and width in pixels that images are brought to: the shorter side is scaled, the longer one cropped.
        classes: whether labels are numbers.

    Raises:
        DeepCacheError: it is neither.
    """
    if path.is_dir():
        return _of_folder(path, size, classes)
    try:
        found = read_arrays(path)
    except (OSError, ValueError) as error:
        raise DeepCacheError(f"--data {path} cannot be read ({first_line(error)}); give {_FORMS}") from error
    key = "labels" if classes else "prompts"
    if missing := {"latents", key} - set(found):
        raise DeepCacheError(
            f"--data {path} has no array {min(missing)!r} but {', '.join(sorted(found))}; give {_FORMS} of this model"
        )
    latents, labels = found["latents"], found[key].tolist()
    if latents.ndim != 4 or latents.dtype.kind != "f" or len(latents) != len(labels):
        raise DeepCacheError(
            f"--data {path} has latents of shape {list(latents.shape)} and {len(labels)} {key}; they are "
            "[N, channels, height, width] numbers and N of the others"
        )
    return Source(tensors=[torch.from_numpy(latents)], labels=labels, encoded=True)


def _of_folder(path: Path, size: tuple[int, int], classes: bool) -> Source:
    names = sorted(folder.name for folder in path.iterdir() if folder.is_dir())
    files: list[Path] = []
    labels: list[Label] = []
    for number, name in enumerate(names):
        inside = sorted(file for file in (path / name).iterdir() if file.suffix.lower() in _SUFFIXES)
        files += inside
        labels += [number if classes else name] * len(inside)
    if not files:
        raise DeepCacheError(f"--data {path} has no images in folders of it; give {_FORMS}")
    return Source(tensors=_batches(files, size), labels=labels)


def _batches(files: Sequence[Path], size: tuple[int, int]) -> Iterator[torch.Tensor]:
    """[B, 3, height, width] in -1…1, read when they are asked for."""
    for first in range(0, len(files), _BATCH):
        yield torch.stack([_picture(file, size) for file in files[first : first + _BATCH]])


def _picture(file: Path, size: tuple[int, int]) -> torch.Tensor:
    """[3, height, width] in -1…1."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            fitted = ImageOps.fit(image.convert("RGB"), size[::-1], Image.Resampling.BICUBIC)
    except (OSError, UnidentifiedImageError) as error:
        raise DeepCacheError(f"{file} is no image that can be read ({first_line(error)}); take it away") from error
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1).float() / 127.5 - 1
