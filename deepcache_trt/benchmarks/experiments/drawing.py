"""Drawing the samples of all cells, in turn, into a folder; what is there already is not drawn again."""

from collections.abc import Hashable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from deepcache_trt.benchmarks.counting.pipeline_counts import macs_of
from deepcache_trt.benchmarks.experiments.experiment import Cell
from deepcache_trt.benchmarks.experiments.results_folder import ResultsFolder
from deepcache_trt.benchmarks.fidelity.scores import as_image
from deepcache_trt.benchmarks.sampling.place import Place
from deepcache_trt.benchmarks.timing.drawing import Drawn, Pipes, Scene, draw_each
from deepcache_trt.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What is drawn with each cell: sample i has prompt i // `seeds` and the noise of seed `seed` + i.

    Attributes:
        prompts: at least one.
        seeds: pictures of each prompt.
        seed: of sample 0.
        steps: of denoising.
        guidance: its scale; None: the pipeline's.
        batch: samples of one call.
        limit: how many of the samples are looked at; None: all.
    """

    prompts: tuple[str, ...]
    seeds: int
    seed: int
    steps: int
    guidance: float | None
    batch: int
    limit: int | None = None

    def __len__(self) -> int:
        """How many samples there are."""
        every = len(self.prompts) * self.seeds
        return every if self.limit is None else min(self.limit, every)

    def prompt(self, index: int) -> str:
        """Of a sample."""
        return self.prompts[index // self.seeds]


def draw_all(
    pipes: Pipes,
    cells: Sequence[Cell],
    samples: Samples,
    folder: ResultsFolder,
    progress: Progress,
) -> int:
    """Have every sample of every cell; returns how many pictures were there before.

    All cells draw a batch before any draws the next one, so that a slow moment of the machine falls on all of them. A
    batch is of the samples from one multiple of its size to the next and drawn whole, so that a picture is the same to
    the last bit in whichever run it is drawn.

    Args:
        pipes: of the model.
        cells: see `Experiment`.
        samples: of each.
        folder: of the results.
        progress: how far it is.

    Raises:
        DeepCacheError: another run draws into the folder, or it cannot be written.
    """
    places = {cell.name: Place(folder.images / cell.folder, cell.record()) for cell in cells}
    with ExitStack() as stack:
        for place in places.values():
            stack.enter_context(place.opened())
        missing = {name: set(place.missing(range(len(samples)))) for name, place in places.items()}
        left = sum(map(len, missing.values()))
        there = len(cells) * len(samples) - left
        if not left:
            return there
        met = set[Hashable]()
        with progress(f"drawing {left:,} pictures") as report:
            done = 0
            for start in range(0, len(samples), samples.batch):
                indices = range(start, min(start + samples.batch, len(samples)))
                for cell in cells:
                    wanted = missing[cell.name].intersection(indices)
                    if not wanted:
                        continue
                    warm = (pipes.variants(cell.policy), cell.sampler, len(indices))
                    if warm not in met:  # what is built, compiled or recorded for it is not timed
                        met.add(warm)
                        _draw(pipes, cell, samples, indices)
                    drawn, macs = _draw(pipes, cell, samples, indices)
                    line = {"cell": cell.name, "first": start, "count": len(indices), "macs": macs}
                    folder.add_draw({**line, "seconds": drawn.seconds, "loop_seconds": drawn.loop_seconds})
                    assert drawn.pictures is not None
                    pictures = dict(zip(indices, drawn.pictures, strict=True))
                    places[cell.name].write({index: as_image(pictures[index]) for index in sorted(wanted)})
                    done += len(wanted)
                    report(done=done, total=left, detail=f"{there + done:,} of {there + left:,}")
    return there


def _draw(pipes: Pipes, cell: Cell, samples: Samples, indices: range) -> tuple[Drawn, float]:
    """A batch, and the operations of an image's calls of the denoiser."""
    pipe: Any = pipes.cached(cell.policy)
    own = pipes.own_scheduler
    pipe.scheduler = own if cell.sampler is None else cell.sampler.scheduler(own)
    scene = Scene(
        prompts=tuple(samples.prompt(index) for index in indices), steps=samples.steps, guidance=samples.guidance
    )
    drawn = draw_each(pipe, scene, [samples.seed + index for index in indices])
    calls, plan = macs_of(pipe), drawn.plan or cell.policy.plan(samples.steps)
    return drawn, sum(calls[variant] for variant in plan.variants)
