"""What judges the pictures of several contenders: comparisons with the reference, scores, a classifier of digits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from deepcache_trt.benchmarks.fidelity.digit_reader import DigitReader, to_eight
from deepcache_trt.benchmarks.fidelity.distances import available, comparisons, finite, latent_distances
from deepcache_trt.benchmarks.fidelity.scores import ClipScore, as_image, folder_rule, folder_scores
from deepcache_trt.benchmarks.timing.drawing import DIGITS, Drawn

_CLIP, _READER, _FOLDERS = "clip_score", "accuracy, frechet", "fid, kid, inception_score"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is known of all pictures together.

    Attributes:
        scores: of each contender: "accuracy" and "frechet" by the classifier of the digits, "fid", "kid" and
            "inception_score".
        absent: figures that there are none of, with the reason and the cure.
        notes: what has to be known to read the figures.
    """

    scores: Mapping[str, Mapping[str, float]]
    absent: Mapping[str, str]
    notes: tuple[str, ...]


class Judges:
    """Judges batches of pictures one by one, and all of them at the end."""

    def __init__(
        self,
        prompts: Sequence[str],
        *,
        clip: bool = False,
        folder: Path | None = None,
        reference: Path | None = None,
    ) -> None:
        """Load what is asked for and can be had.

        Args:
            prompts: of every batch; the ten digits are read by their classifier.
            clip: whether to take the CLIP score.
            folder: for a folder of each contender's pictures; None: they are not kept.
            reference: a folder of images for FID and KID, which want `folder`.
        """
        assert reference is None or folder is not None
        loaders: dict[str, Callable[[], Any]] = {_CLIP: ClipScore} if clip else {}
        if tuple(prompts) == DIGITS:
            loaders[_READER] = DigitReader
        loaded, absent = available(loaders)
        self._pairs = comparisons()
        self._absent = {**self._pairs.absent, **absent}
        self._clip: ClipScore | None = loaded.get(_CLIP)
        self._reader: DigitReader | None = loaded.get(_READER)
        self._folder, self._reference = folder, reference
        self._names: dict[str, None] = {}  # the contenders, in order
        self._images: dict[str, list[np.ndarray]] = {}  # (10, 8, 8) in 0…16 of each batch of digits, by contender

    def judge(
        self, name: str, seed: int, prompts: Sequence[str], reference: Drawn, drawn: Drawn
    ) -> dict[str, float | None]:
        """The figures of one batch of a contender; None where one is infinite: nothing differs."""
        assert reference.pictures is not None
        assert drawn.pictures is not None
        distances = latent_distances(reference.latents, drawn.latents)
        self._names[name] = None
        figures = {f"latent_{figure}": distances[figure] for figure in ("mse", "error")}
        for figure, compare in self._pairs.functions.items():
            figures[figure] = finite(compare(reference.pictures, drawn.pictures))
        if self._clip is not None:
            figures[_CLIP] = self._clip(drawn.pictures, prompts)
        if self._reader is not None:
            self._images.setdefault(name, []).append(to_eight(drawn.pictures))
        if self._folder is not None:
            own = self._folder / name
            own.mkdir(parents=True, exist_ok=True)
            for i, picture in enumerate(drawn.pictures):
                as_image(picture).save(own / f"{seed}-{i}.png")
        return figures

    def conclude(self) -> Verdict:
        """The scores of all pictures."""
        scores: dict[str, dict[str, float]] = {}
        absent, notes = dict(self._absent), []
        for name, batches in self._images.items():
            assert self._reader is not None
            images = np.concatenate(batches)
            labels = np.tile(np.arange(len(DIGITS)), len(batches))
            scores[name] = {"accuracy": self._reader.accuracy(images, labels), "frechet": self._reader.frechet(images)}
        if self._images:
            count = len(DIGITS) * len(next(iter(self._images.values())))
            notes.append(
                f"accuracy: share of {count} digits that a support vector machine reads as prompted; Fréchet: their "
                "distance from the real training digits in its 45 margins"
            )
        if self._folder is not None and self._reference is not None:
            measure = {name: partial(folder_scores, self._folder / name, self._reference) for name in self._names}
            found, reasons = available({_FOLDERS: lambda: {name: each() for name, each in measure.items()}})
            absent |= reasons
            for name, figures in found.get(_FOLDERS, {}).items():
                scores.setdefault(name, {}).update(figures)
            notes += [f"FID, KID and Inception score: {folder_rule()}"] if found else []
        return Verdict(scores=scores, absent=absent, notes=tuple(notes))
