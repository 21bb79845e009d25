"""All pictures of a cell together beside real ones: FID, and where images are given the other four figures too."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deepcache_trt.benchmarks.experiments.comparison.cells import Cell
from deepcache_trt.benchmarks.experiments.comparison.compare import compare
from deepcache_trt.benchmarks.experiments.comparison.measure import Results
from deepcache_trt.benchmarks.experiments.comparison.table import findings
from deepcache_trt.benchmarks.experiments.comparison.unprompted import WithoutPrompts
from deepcache_trt.benchmarks.experiments.experiment import Findings, Job
from deepcache_trt.benchmarks.experiments.options import Unprompted
from deepcache_trt.benchmarks.experiments.published import published
from deepcache_trt.benchmarks.fidelity.extractors import DIGITS, Extractor, extractor_called
from deepcache_trt.benchmarks.fidelity.figures import Reading, figures_of
from deepcache_trt.benchmarks.fidelity.image_sets import is_of_statistics, read_images, statistics_from
from deepcache_trt.benchmarks.fidelity.statistics import frechet
from deepcache_trt.engines.store import default_root


def compare_sets(
    cells: Sequence[Cell],
    draws: WithoutPrompts,
    job: Job,
    *,
    plot: Callable[[Results, Any], None] | None = None,
) -> Findings:
    """Draw what is missing, measure it one by one and as sets, and put what was published beside it.

    Args:
        cells: see `compare`.
        draws: what draws them.
        job: whose folder is begun.
        plot: draws the results.

    Raises:
        DeepCacheError: as `compare` and `with_scores`.
    """
    options = draws.options
    reads_digits = options.extractor == DIGITS
    results = compare(cells, draws.samples(job.limit), draws, job, of_digits=reads_digits)
    results = with_scores(results, options, job)
    if not options.random_weights:
        known = {cell.name: published(options.model, options.steps, cell) for cell in cells}
        results = results.with_scores({name: told.scores() for name, told in known.items() if told is not None})
    return findings(results, steps=options.steps, plot=plot)


def with_scores(results: Results, options: Unprompted, job: Job) -> Results:
    """The same, with the figures of each cell's pictures as a set among its scores.

    Where there is nothing to compare them with, these figures are absent, and the reason says what to give.

    Raises:
        DeepCacheError: no such images, or the extractor cannot be had.
    """
    extractor = extractor_called(options.extractor)
    if options.reference is None and extractor.real is None:
        reason = f"the extractor {extractor.option} knows no real images; give --reference, a folder of them"
        return replace(results, absent={**results.absent, "FID": reason})
    count = len(results.samples)
    scores: dict[str, dict[str, float]] = {}
    with job.progress(f"comparing {len(results.cells)} sets of {count:,} pictures") as report:
        if options.reference is not None and is_of_statistics(options.reference):
            cache = (job.store or default_root()) / "caches" / "statistics"
            real = statistics_from(options.reference, extractor, cache=cache)
            for done, cell in enumerate(results.cells):
                report(done=done, total=len(results.cells))
                own = statistics_from(results.images / cell.folder, extractor, cache=cache, images=count)
                scores[cell.name] = {"fid": frechet(own, real)}
        else:
            reading = _real(options.reference, extractor)
            for done, cell in enumerate(results.cells):
                report(done=done, total=len(results.cells))
                drawn = read_images(results.images / cell.folder, extractor, images=count)
                scores[cell.name] = figures_of(drawn, reading)
    said = f"Fréchet distances (FID and sFID of Inception), precision and recall: {extractor.name}; {extractor.resize}"
    return replace(results.with_scores(scores), remarks=(*results.remarks, said))


def _real(reference: Path | None, extractor: Extractor) -> Reading:
    if reference is not None:
        return read_images(reference, extractor)
    assert extractor.real is not None
    return extractor.real()
