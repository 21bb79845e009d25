"""Cells set beside each other: drawn, then measured."""

from collections.abc import Sequence
from dataclasses import replace

from deepcache_trt.benchmarks.experiments.comparison.cells import Cell
from deepcache_trt.benchmarks.experiments.comparison.drawing import Draws, draw_all, in_turn
from deepcache_trt.benchmarks.experiments.comparison.measure import Results, measure
from deepcache_trt.benchmarks.experiments.comparison.samples import Samples
from deepcache_trt.benchmarks.experiments.experiment import Job


def compare(
    cells: Sequence[Cell],
    samples: Samples,
    draws: Draws,
    job: Job,
    *,
    clip: bool = False,
    between: bool = False,
    of_digits: bool = False,
) -> Results:
    """Draw what is missing, and measure all.

    Args:
        cells: a reference before those that are compared with it.
        samples: of each.
        draws: what draws them.
        job: whose folder is begun.
        clip: see `measure`.
        between: likewise.
        of_digits: likewise.

    Raises:
        DeepCacheError: what is asked for cannot be drawn, which is told before anything is.
    """
    for cell in cells:
        draws.kind(cell)
    job.folder.begin()
    if job.workers is None:
        drawing = in_turn(draws)
    else:
        from deepcache_trt.benchmarks.experiments.comparison.workers import spread

        drawing = spread(draws, job.workers)
    draw_all(cells, samples, job, drawing)
    results = measure(cells, samples, job, clip=clip, between=between, of_digits=of_digits)
    if job.workers is None:
        return results
    said = "drawn by workers of Ray: times are of as many as share a machine"
    return replace(results, remarks=(*results.remarks, said))
