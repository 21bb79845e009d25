"""Drawing from prompts, with one model or several."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from deepcache_trt.benchmarks.counting.pipeline_counts import Calls, calls_at_its_size, calls_of
from deepcache_trt.benchmarks.experiments.comparison.cells import Cell
from deepcache_trt.benchmarks.experiments.comparison.drawing import Batch
from deepcache_trt.benchmarks.experiments.comparison.samples import Samples
from deepcache_trt.benchmarks.experiments.comparison.starts import Start
from deepcache_trt.benchmarks.experiments.options import Prompted
from deepcache_trt.benchmarks.fidelity.scores import as_image
from deepcache_trt.benchmarks.timing.drawing import Pipes, Scene, draw_each, load_pipes
from deepcache_trt.builder.model_source import ModelSource


@dataclass(frozen=True)
class FromPrompts:
    """What draws from prompts.

    Attributes:
        options: of the experiment, resolved.
        store: see `Job`.
        start: what pictures begin with; None: noise.
    """

    options: Prompted
    store: Path | None
    start: Start | None = None

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        """What was loaded stays here."""
        return FromPrompts, (self.options, self.store, self.start)

    @cached_property
    def samples(self) -> Samples:
        """Those of the options."""
        return samples_of(self.options)

    @cached_property
    def _pipes(self) -> dict[str, Pipes]:
        return {}

    @cached_property
    def _calls(self) -> dict[tuple[Cell, int], Calls]:
        return {}

    def pipes(self, model: str = "") -> Pipes:
        """A model; "": the one that was asked for."""
        if model not in self._pipes:
            self._pipes[model] = self._loaded(model)
        return self._pipes[model]

    def _loaded(self, model: str) -> Pipes:
        asked = self.options
        source = ModelSource(model=asked.model, revision=asked.revision, variant=asked.variant)
        if model:
            source = ModelSource(model=model)
        pipes = load_pipes(source, policies=(), backend=asked.backend, dtype=asked.dtype, store=self.store)
        return pipes if self.start is None else pipes.of_class(self.start.pipeline_class)

    def macs(self, cell: Cell) -> Mapping[str, int]:
        """Operations of one call of each variant, for a batch of one at the model's own size; nothing is drawn."""
        return calls_at_its_size(self.pipes(cell.model).cached(cell.policy)).macs

    def kind(self, cell: Cell) -> Hashable:
        """The model, its variants and the sampler."""
        return cell.model, self.pipes(cell.model).variants(cell.policy), cell.sampler

    def draw(self, cell: Cell, indices: range) -> Batch:
        """A batch of samples."""
        pipes, options = self.pipes(cell.model), self.options
        pipe: Any = pipes.cached(cell.policy)
        pipe.scheduler = pipes.own_scheduler if cell.sampler is None else cell.sampler.scheduler(pipes.own_scheduler)
        steps = cell.steps or options.steps
        prompts = tuple(str(self.samples.subject(index)) for index in indices)
        scene = Scene(prompts=prompts, steps=steps, guidance=options.guidance)
        given = {} if self.start is None else self.start.arguments(self.samples, indices)
        drawn = draw_each(pipe, scene, [options.seed + index for index in indices], given=given)
        assert drawn.pictures is not None
        counted = (cell, len(indices))
        if counted not in self._calls:
            self._calls[counted] = calls_of(pipe)
        calls, plan = self._calls[counted], drawn.plan or cell.policy.plan(steps)
        return Batch(
            pictures=np.stack([np.asarray(as_image(picture)) for picture in drawn.pictures]),
            seconds=drawn.seconds,
            loop_seconds=drawn.loop_seconds,
            macs=sum(calls.macs[variant] for variant in plan.variants) / len(indices),
            kept=calls.kept / len(indices),
        )


def samples_of(options: Prompted, limit: int | None = None) -> Samples:
    """The samples of a run."""
    return Samples(subjects=options.prompt, seeds=options.seeds, seed=options.seed, batch=options.batch, limit=limit)
