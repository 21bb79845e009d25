"""What it costs and brings to cut at each branch (DeepCache, tables 7 and 8)."""

from collections.abc import Sequence
from typing import Any

from deepcache_trt.benchmarks.experiments.experiment import Cell, Experiment, Setting
from deepcache_trt.benchmarks.experiments.measure import Results
from deepcache_trt.benchmarks.experiments.report import plot_error_and_time
from deepcache_trt.runtime.policies import DeepCache, Uncached


def _cells(setting: Setting) -> Sequence[Cell]:
    uncached = Cell(name="uncached", policy=Uncached())
    return [
        uncached,
        *(
            Cell(
                name=f"interval {interval}, branch {branch}",
                policy=DeepCache(cache_interval=interval, cache_branch_id=branch),
                reference=uncached.name,
                at=branch,
                line=f"interval {interval}",
            )
            for interval in setting.intervals or (5,)
            for branch in setting.branches or range(setting.taps)
        ),
    ]


def _plot(results: Results, figure: Any) -> None:
    plot_error_and_time(results, figure, "branch")


EXPERIMENT = Experiment(
    name="branches",
    says="Every branch at fixed intervals: operations, time and fidelity.",
    cells=_cells,
    plot=_plot,
)
