"""Drawing classes, or from noise alone, with one model."""

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepcache_trt.benchmarks.counting.pipeline_counts import Calls, calls_of
from deepcache_trt.benchmarks.experiments.comparison.cells import Cell
from deepcache_trt.benchmarks.experiments.comparison.drawing import Batch
from deepcache_trt.benchmarks.experiments.comparison.samples import Samples
from deepcache_trt.benchmarks.experiments.options import Unprompted
from deepcache_trt.benchmarks.fidelity.extractors import DIGITS
from deepcache_trt.benchmarks.sampling.drawer import Drawer, Sampling, classes_of, load
from deepcache_trt.benchmarks.timing.drawing import DIGITS as PROMPTS
from deepcache_trt.benchmarks.timing.drawing import Pipes
from deepcache_trt.builder.model_source import ModelSource
from deepcache_trt.engines import backends
from deepcache_trt.pipelines.cached_denoiser import part_of_denoiser
from deepcache_trt.runtime.policies import Uncached


@dataclass(frozen=True)
class WithoutPrompts:
    """What draws without prompts.

    Attributes:
        options: of the experiment, resolved.
        store: see `Job`.
    """

    options: Unprompted
    store: Path | None

    def __reduce__(self) -> tuple[type, tuple[Unprompted, Path | None]]:
        """What was loaded stays here."""
        return WithoutPrompts, (self.options, self.store)

    @cached_property
    def pipes(self) -> Pipes:
        """The model, in pipelines that share its components."""
        asked = self.options
        engines = {"backend": asked.backend, "store": self.store}
        loaded = load(
            ModelSource(model=asked.model, revision=asked.revision, variant=asked.variant),
            random_weights=asked.random_weights,
            dtype=getattr(torch, str(asked.dtype)),
            device=backends.best_device(asked.backend),
            options={"policy": Uncached(), **engines},
        )
        loaded.disable_cache()
        return Pipes(loaded, asked.model, engines)

    @cached_property
    def classes(self) -> tuple[int, ...]:
        """That take turns; none of an unconditional model. What the reader of digits judges is of their ten."""
        known = classes_of(self.pipes.plain)
        return self.options.classes or (known[: len(PROMPTS)] if self.options.extractor == DIGITS else known)

    @cached_property
    def _calls(self) -> dict[tuple[Cell, int], Calls]:
        return {}

    def samples(self, limit: int | None) -> Samples:
        """Those of the options."""
        asked, classes = self.options, self.classes or (None,)
        subjects = tuple(classes[index % len(classes)] for index in range(asked.images))
        return Samples(subjects=subjects, seed=asked.seed, batch=asked.batch, limit=limit)

    def kind(self, cell: Cell) -> Hashable:
        """The variants."""
        return self.pipes.variants(cell.policy)

    def draw(self, cell: Cell, indices: range) -> Batch:
        """A batch of samples."""
        asked, pipe = self.options, self.pipes.cached(cell.policy)
        sampling = Sampling(
            seed=asked.seed,
            steps=cell.steps or asked.steps,
            eta=asked.eta,
            skip_type=asked.skip_type,
            guidance=asked.guidance,
            classes=self.classes,
        )
        images = Drawer(pipe, sampling).draw(indices)
        run: Any = pipe.last_run
        counted = (cell, len(indices))
        if counted not in self._calls:
            self._calls[counted] = calls_of(pipe)
        calls = self._calls[counted]
        return Batch(
            pictures=np.stack([np.asarray(image) for image in images]),
            seconds=run.seconds["total"],
            loop_seconds=run.seconds[part_of_denoiser(pipe)] + run.seconds["loop"],
            macs=sum(calls.macs[variant] for variant in run.plan.variants) / len(indices),
            kept=calls.kept / len(indices),
        )
