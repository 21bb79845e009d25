"""How pictures change as the interval of caching grows (DeepCache, figure 7)."""

from collections.abc import Sequence
from typing import Any

from deepcache_trt.benchmarks.experiments.experiment import Cell, Experiment, Setting
from deepcache_trt.benchmarks.experiments.measure import Results
from deepcache_trt.benchmarks.experiments.report import plot_error_and_time, strip
from deepcache_trt.runtime.policies import DeepCache, Uncached

_INTERVALS = tuple(range(2, 9))
_ROWS = 4  # of pictures


def _cells(setting: Setting) -> Sequence[Cell]:
    uncached = Cell(name="uncached", policy=Uncached())
    branches = setting.branches or (0,)
    return [
        uncached,
        *(
            Cell(
                name=f"interval {interval}" + (f", branch {branch}" if len(branches) > 1 else ""),
                policy=DeepCache(cache_interval=interval, cache_branch_id=branch),
                reference=uncached.name,
                at=interval,
                line=f"branch {branch}" if len(branches) > 1 else "",
            )
            for branch in branches
            for interval in setting.intervals or _INTERVALS
        ),
    ]


def _plot(results: Results, figure: Any) -> None:
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.1))
    plot_error_and_time(results, below, "interval")
    rows = range(0, len(results.samples), max(1, len(results.samples) // _ROWS))[:_ROWS]
    picture = strip(results, rows)
    axes = above.subplots()
    axes.imshow(picture)
    width = picture.shape[1] / len(results.cells)
    axes.set_xticks([width * (i + 0.5) for i in range(len(results.cells))], [cell.name for cell in results.cells])
    axes.tick_params(axis="x", labelsize="small", length=0)
    axes.set_yticks([])
    figure.set_size_inches(9, 3.8 + 9 * picture.shape[0] / picture.shape[1])


EXPERIMENT = Experiment(
    name="interval-evolution",
    says="The same noise at growing intervals: a strip of pictures, and the curve of error and time.",
    cells=_cells,
    plot=_plot,
)
