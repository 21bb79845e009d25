"""How drawn digits are judged beside the real ones: pictures (N, 3, H, W) in -1..1, images (N, 8, 8) in 0..16."""

from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from digits_model import load_splits, to_eight
from PIL import Image
from torch import Tensor

from deepcache_trt.benchmarks.fidelity.digit_reader import DigitReader

CONFIDENT = 0.5  # margin of every duel that a digit must win to be read with confidence
_PAIRS = np.array(list(combinations(range(10), 2)))  # the duels of the reader's margins


def judge(pictures: Tensor, labels: Tensor | None = None) -> dict[str, object]:
    """The figures of drawn pictures.

    Args:
        pictures: at least two of each digit.
        labels: the digits (N,) that were asked for; None: what is read counts.
    """
    reader, images = DigitReader(), to_eight(pictures)
    train, _ = load_splits()
    read = torch.from_numpy(reader.read(images.numpy()))
    asked = read if labels is None else labels
    ratios = [mean_distance(images[asked == d]) / mean_distance(train.images[train.labels == d]) for d in range(10)]
    report = _figures(reader, images) | {
        "diversity_ratio": sum(ratios) / 10,
        "diversity_ratio_min": min(ratios),
        "diversity_ratio_by_digit": [round(r, 3) for r in ratios],
    }
    if labels is None:
        return report | {"share_by_digit": [round((read == d).float().mean().item(), 3) for d in range(10)]}
    right = [(read[labels == d] == d).float().mean().item() for d in range(10)]
    return report | {"accuracy": sum(right) / 10, "accuracy_by_digit": [round(r, 3) for r in right]}


def real_figures() -> dict[str, object]:
    """The same figures of real digits: the test split beside the training split."""
    reader = DigitReader()
    train, test = load_splits()
    floor = reader.frechet(train.images.numpy(), test.images.numpy())
    return _figures(reader, test.images) | {
        "frechet_test": floor,  # of the training split
        "accuracy": reader.accuracy(test.images.numpy(), test.labels.numpy()),
    }


def _figures(reader: DigitReader, images: Tensor) -> dict[str, object]:
    train, test = load_splits()
    nearest = torch.cdist(images.flatten(1), train.images.flatten(1)).min(1).values
    return {
        "frechet_test": reader.frechet(images.numpy(), test.images.numpy()),
        "frechet_train": reader.frechet(images.numpy()),
        "read_with_confidence": float((_least_margins(reader, images.numpy()) >= CONFIDENT).mean()),
        "nearest_training_image": nearest.mean().item(),
        "nearest_training_image_min": nearest.min().item(),
    }


def _least_margins(reader: DigitReader, images: np.ndarray) -> np.ndarray:
    """By how much each image's digit wins the closest of its nine duels, (N,)."""
    digits = reader.read(images)[:, None]
    sides = (_PAIRS[:, 0] == digits).astype(int) - (_PAIRS[:, 1] == digits)
    least: np.ndarray = np.where(sides != 0, sides * reader.margins(images), np.inf).min(axis=1)
    return least


def mean_distance(images: Tensor) -> float:
    """Mean pairwise L2 distance within (N, 8, 8) images."""
    return torch.pdist(images.flatten(1)).mean().item()


def save_grid(rows: list[Tensor], path: Path, columns: int = 16) -> None:
    """Rows of (N, 3, H, W) pictures, as a PNG."""
    lines = [torch.cat(list(row[:columns]), dim=2) for row in rows]
    pixels = (127.5 * (torch.cat(lines, dim=1).clamp(-1, 1) + 1)).round().byte()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)
