"""The figures of pictures as they were saved, 8 bits deep: each beside the one of the reference with the same noise."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from deepcache_trt.benchmarks.experiments.comparison.cells import Cell
from deepcache_trt.benchmarks.experiments.comparison.samples import Samples
from deepcache_trt.benchmarks.experiments.experiment import Job
from deepcache_trt.benchmarks.experiments.results_folder import ResultsFolder
from deepcache_trt.benchmarks.fidelity.digit_reader import DigitReader, to_eight
from deepcache_trt.benchmarks.fidelity.distances import available, comparisons, finite
from deepcache_trt.benchmarks.fidelity.scores import CLIP, ClipScore
from deepcache_trt.benchmarks.sampling.place import image_name
from deepcache_trt.benchmarks.timing.drawing import DIGITS

_READER = "accuracy, frechet"

# What is compared between two pictures of one prompt, beside their LPIPS.
_APART = "mse_apart"


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that was found.

    Attributes:
        cells: in order.
        samples: what was drawn with each.
        figures: by cell and name a value for each sample, or for each pair of samples of one subject; infinite where
            nothing differs.
        scores: by cell, of all its pictures together.
        seconds: by cell, of an image's loop in each batch, by the index of its first sample.
        macs: by cell, of an image's calls of the denoiser.
        kept: by cell, bytes of an image's taps.
        absent: figures that there are none of, with the reason and the cure.
        images: the folder with one for each cell.
        remarks: what else has to be known to read the figures.
    """

    cells: Sequence[Cell]
    samples: Samples
    figures: Mapping[str, Mapping[str, Sequence[float]]]
    scores: Mapping[str, Mapping[str, float]]
    seconds: Mapping[str, Mapping[int, float]]
    macs: Mapping[str, float]
    kept: Mapping[str, float]
    absent: Mapping[str, str] = field(default_factory=dict)
    images: Path
    remarks: tuple[str, ...] = ()

    def median(self, cell: str, figure: str) -> float | None:
        """Of a figure's samples; None where there are none."""
        values = self.figures[cell].get(figure, ())
        return statistics.median(values) if values else None

    def loop(self, cell: Cell) -> float | None:
        """The median of an image's loop; None where nothing was timed."""
        own = self.seconds[cell.name]
        return statistics.median(own.values()) if own else None

    def speed_up(self, cell: Cell) -> float | None:
        """The median over the batches of the reference's time over the cell's, which were drawn one after the other."""
        own, other = self.seconds[cell.name], self.seconds[cell.reference or cell.name]
        ratios = [other[first] / own[first] for first in own.keys() & other.keys()]
        return statistics.median(ratios) if ratios else None

    def with_scores(self, scores: Mapping[str, Mapping[str, float]]) -> "Results":
        """With more of them."""
        return replace(self, scores={name: {**own, **scores.get(name, {})} for name, own in self.scores.items()})

    def image(self, cell: Cell, index: int) -> np.ndarray:
        """A picture [H, W, 3] uint8."""
        return _read(self.images / cell.folder / image_name(index))


def measure(
    cells: Sequence[Cell],
    samples: Samples,
    job: Job,
    *,
    clip: bool = False,
    between: bool = False,
    of_digits: bool = False,
) -> Results:
    """Measure all pictures of a folder, and write a line about each.

    Args:
        cells: whose pictures are all there.
        samples: likewise.
        job: whose folder has them.
        clip: whether to take the CLIP score, which wants 5 GB of weights.
        between: whether pictures of one subject are compared with each other too.
        of_digits: whether classes are digits; prompts tell it.
    """
    with job.progress(f"measuring {len(cells) * len(samples):,} pictures") as report:
        total = len(cells) * len(samples)
        digits = _digits(samples, of_digits)
        return _measure(cells, samples, job.folder, clip, between, digits, lambda done: report(done=done, total=total))


def _measure(
    cells: Sequence[Cell],
    samples: Samples,
    folder: ResultsFolder,
    clip: bool,
    between: bool,
    digits: np.ndarray | None,
    seen: Callable[[int], None],
) -> Results:
    pairs = comparisons()
    loaders: dict[str, Callable[[], Any]] = {CLIP: ClipScore} if clip else {}
    loaded, absent = available({**loaders, **({_READER: DigitReader} if digits is not None else {})})
    figures: dict[str, dict[str, list[float]]] = {cell.name: {} for cell in cells}
    scores: dict[str, dict[str, float]] = {cell.name: {} for cell in cells}
    lines = []

    by_name = {cell.name: cell for cell in cells}

    def picture(cell: Cell, index: int) -> np.ndarray:
        return _picture(folder.images / cell.folder / image_name(index))

    for cell in cells:
        eight = list[np.ndarray]()
        for index in range(len(samples)):  # one at a time: thousands of large pictures fit into no memory
            found = dict[str, float]()
            if cell.reference or loaded:
                own = picture(cell, index)
            if cell.reference:
                beside = picture(by_name[cell.reference], index)
                found |= {name: compare(beside, own) for name, compare in pairs.functions.items()}
            if CLIP in loaded:
                found[CLIP] = loaded[CLIP](own, [str(samples.subject(index))])
            if _READER in loaded:
                eight.append(to_eight(own))
            for name, value in found.items():
                figures[cell.name].setdefault(name, []).append(value)
            figures_found = {name: finite(value) for name, value in found.items()}
            where = {"cell": cell.name, "image": f"{folder.images.name}/{cell.folder}/{image_name(index)}"}
            lines.append({**where, **samples.line(index), **figures_found})
            seen(len(lines))
        if between:
            figures[cell.name] |= _between(partial(picture, cell), samples, pairs.functions.get("lpips"))
        if _READER in loaded:
            scores[cell.name]["accuracy"] = loaded[_READER].accuracy(np.concatenate(eight), digits)
        clips = figures[cell.name].get(CLIP, ())
        if clips:
            scores[cell.name] |= {"clip_mean": statistics.mean(clips), "clip_deviation": statistics.pstdev(clips)}
    folder.write_samples(lines)
    draws = folder.draws()
    return Results(
        cells=cells,
        samples=samples,
        figures=figures,
        scores=scores,
        seconds={cell.name: _seconds(cell, draws) for cell in cells},
        macs={draw["cell"]: draw["macs"] for draw in draws},
        kept={draw["cell"]: draw["kept"] for draw in draws},
        absent={**pairs.absent, **absent},
        images=folder.images,
    )


def _digits(samples: Samples, are_classes: bool) -> np.ndarray | None:
    """The digit that each sample is to show; None where they show others."""
    subjects = [samples.subject(index) for index in range(len(samples))]
    if set(subjects) <= set(DIGITS):
        return np.array([DIGITS.index(str(subject)) for subject in subjects])
    return np.array(subjects) if are_classes and None not in subjects else None


def _between(
    picture: Callable[[int], np.ndarray],
    samples: Samples,
    lpips: Callable[[np.ndarray, np.ndarray], float] | None,
) -> dict[str, list[float]]:
    """How far the pictures of one subject are apart, for each two of them."""
    found: dict[str, list[float]] = {_APART: [], **({} if lpips is None else {"lpips_apart": []})}
    for start in range(0, len(samples), samples.seeds):
        together = [picture(index) for index in range(start, min(start + samples.seeds, len(samples)))]
        for one, other in combinations(together, 2):
            found[_APART].append(float(np.mean((one.astype(np.float64) - other) ** 2)))
            if lpips is not None:
                found["lpips_apart"].append(lpips(one, other))
    return found


def _seconds(cell: Cell, draws: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    return {draw["first"]: draw["loop_seconds"] / draw["count"] for draw in draws if draw["cell"] == cell.name}


def _read(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _picture(path: Path) -> np.ndarray:
    """[1, 3, H, W] float32 in 0…1."""
    found: np.ndarray = (_read(path).astype(np.float32) / 255).transpose(2, 0, 1)[None]
    return found
