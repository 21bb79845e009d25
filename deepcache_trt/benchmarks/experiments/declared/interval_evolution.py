"""How pictures change as the interval of caching grows (DeepCache, figure 7)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepcache_trt.benchmarks.experiments.experiment import Experiment, Findings, Job
from deepcache_trt.benchmarks.experiments.options import Branches, Intervals, Prompted

if TYPE_CHECKING:
    from deepcache_trt.benchmarks.experiments.comparison.measure import Results

_ROWS = 4  # of pictures


@dataclass(frozen=True, kw_only=True)
class _Options(Prompted):
    interval: Intervals = tuple(range(2, 9))
    branch: Branches = (0,)


def _find(options: _Options, job: Job) -> Findings:
    from deepcache_trt.benchmarks.experiments.comparison.cells import over_intervals
    from deepcache_trt.benchmarks.experiments.comparison.compare import compare
    from deepcache_trt.benchmarks.experiments.comparison.prompted import FromPrompts, samples_of
    from deepcache_trt.benchmarks.experiments.comparison.table import findings

    cells = over_intervals(options.interval, options.branch)
    draws, samples = FromPrompts(options, job.store), samples_of(options, job.limit)
    return findings(compare(cells, samples, draws, job, clip=options.clip), steps=options.steps, plot=_plot)


def _plot(results: "Results", figure: Any) -> None:
    from deepcache_trt.benchmarks.experiments.comparison.plots import error_and_time, strip

    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.1))
    error_and_time(results, below, axis="interval")
    rows = range(0, len(results.samples), max(1, len(results.samples) // _ROWS))[:_ROWS]
    picture = strip(results, rows)
    axes = above.subplots()
    axes.imshow(picture)
    width = picture.shape[1] / len(results.cells)
    names = [cell.name.removesuffix(", branch 0") for cell in results.cells]
    axes.set_xticks([width * (i + 0.5) for i in range(len(results.cells))], names)
    axes.tick_params(axis="x", labelsize="small", length=0)
    axes.set_yticks([])
    figure.set_size_inches(9, 3.8 + 9 * picture.shape[0] / picture.shape[1])


EXPERIMENT = Experiment(
    name="interval-evolution",
    says="The same noise at growing intervals: a strip of pictures, and the curve of error and time.",
    options=_Options,
    find=_find,
)
