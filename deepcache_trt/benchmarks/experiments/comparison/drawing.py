"""Drawing the samples of all cells, in turn, into a folder; what is there already is not drawn again."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from deepcache_trt.benchmarks.experiments.comparison.cells import Cell
from deepcache_trt.benchmarks.experiments.comparison.samples import Samples
from deepcache_trt.benchmarks.experiments.experiment import Job
from deepcache_trt.benchmarks.sampling.place import Place


@dataclass(frozen=True, kw_only=True)
class Task:
    """A batch that is to be drawn: the samples from `first` to before `end`, all of them."""

    cell: Cell
    first: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch that was drawn.

    Attributes:
        pictures: [B, H, W, 3] uint8.
        seconds: of the whole call.
        loop_seconds: from before the first call of the denoiser to after the scheduler's last step.
        macs: operations of one picture's calls of the denoiser.
        kept: bytes of one picture's taps, which are kept from call to call.
    """

    pictures: np.ndarray
    seconds: float
    loop_seconds: float
    macs: float
    kept: float


class Draws(Protocol):
    """What draws, with everything that it needs loaded."""

    def kind(self, cell: Cell) -> Hashable:
        """What is loaded for a cell: the same for those that need the same.

        Raises:
            DeepCacheError: the model cannot be drawn like that.
        """
        ...

    def draw(self, cell: Cell, indices: range) -> Batch:
        """Draw these samples in one call."""
        ...


class Drawer:
    """Draws batches; what is built, compiled or recorded for the first of a kind is not timed."""

    def __init__(self, draws: Draws) -> None:
        """Take over what draws."""
        self._draws = draws
        self._met = set[Hashable]()

    def __call__(self, task: Task) -> Batch:
        """Draw one."""
        indices = range(task.first, task.end)
        met = (self._draws.kind(task.cell), len(indices))
        if met not in self._met:
            self._met.add(met)
            self._draws.draw(task.cell, indices)
        return self._draws.draw(task.cell, indices)


Drawing = Callable[[Sequence[Task]], Iterable[tuple[Task, Batch]]]


def in_turn(draws: Draws) -> Drawing:
    """In this process, one after the other."""

    def drawing(tasks: Sequence[Task]) -> Iterator[tuple[Task, Batch]]:
        drawer = Drawer(draws)
        for task in tasks:
            yield task, drawer(task)

    return drawing


def draw_all(cells: Sequence[Cell], samples: Samples, job: Job, drawing: Drawing) -> None:
    """Have every sample of every cell.

    All cells draw a batch before any draws the next one, so that a slow moment of the machine falls on all of them. A
    batch is of the samples from one multiple of its size to the next and drawn whole, so that a picture is the same to
    the last bit in whichever run it is drawn.

    Args:
        cells: see `Cell`.
        samples: of each.
        job: whose folder has begun.
        drawing: who draws.

    Raises:
        DeepCacheError: another run draws into the folder, or it cannot be written.
    """
    from PIL import Image

    folder = job.folder
    places = {cell.name: Place(folder.images / cell.folder, cell.record()) for cell in cells}
    with ExitStack() as stack:
        for place in places.values():
            stack.enter_context(place.opened())
        missing = {name: set(place.missing(range(len(samples)))) for name, place in places.items()}
        left = sum(map(len, missing.values()))
        there = len(cells) * len(samples) - left
        if there:
            job.tell(f"{there:,} of {there + left:,} pictures were there already")
        if not left:
            return
        tasks = list(_tasks(cells, samples, missing))
        with job.progress(f"drawing {left:,} pictures") as report:
            done = 0
            for task, batch in drawing(tasks):
                figures = {name: value for name, value in vars(batch).items() if name != "pictures"}
                where = {"cell": task.cell.name, "first": task.first, "count": task.end - task.first}
                folder.add_draw(where | figures)
                wanted = sorted(missing[task.cell.name].intersection(range(task.first, task.end)))
                pictures = {index: Image.fromarray(batch.pictures[index - task.first]) for index in wanted}
                places[task.cell.name].write(pictures)
                done += len(wanted)
                report(done=done, total=left, detail=f"{there + done:,} of {there + left:,}")


def _tasks(cells: Sequence[Cell], samples: Samples, missing: dict[str, set[int]]) -> Iterator[Task]:
    for first in range(0, len(samples), samples.batch):
        end = min(first + samples.batch, len(samples))
        for cell in cells:
            if missing[cell.name].intersection(range(first, end)):
                yield Task(cell=cell, first=first, end=end)
