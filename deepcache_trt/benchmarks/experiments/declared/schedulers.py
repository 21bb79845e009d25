"""Caching under different samplers, each beside itself without a cache."""

from collections.abc import Sequence
from typing import Any

from deepcache_trt.benchmarks.experiments.experiment import Cell, Experiment, Setting
from deepcache_trt.benchmarks.experiments.measure import Results
from deepcache_trt.benchmarks.experiments.report import plot_error_and_time
from deepcache_trt.runtime.policies import DeepCache, Uncached

# DeepCache's ablation has the first three.
_SCHEDULERS = ("ddim", "pndm", "pndm,skip_prk_steps=true", "dpmsolvermultistep", "eulerdiscrete", "unipc")


def _cells(setting: Setting) -> Sequence[Cell]:
    cells, branches = list[Cell](), setting.branches or (0,)
    for sampler in setting.samplers:
        uncached = Cell(name=f"{sampler.name}, uncached", policy=Uncached(), sampler=sampler)
        cells.append(uncached)
        cells += [
            Cell(
                name=f"{sampler.name}, interval {interval}" + (f", branch {branch}" if len(branches) > 1 else ""),
                policy=DeepCache(cache_interval=interval, cache_branch_id=branch),
                sampler=sampler,
                reference=uncached.name,
                at=interval,
                line=sampler.name + (f", branch {branch}" if len(branches) > 1 else ""),
            )
            for branch in branches
            for interval in setting.intervals or (2, 3, 5)
        ]
    return cells


def _plot(results: Results, figure: Any) -> None:
    plot_error_and_time(results, figure, "interval")


EXPERIMENT = Experiment(
    name="schedulers",
    says="Samplers by intervals and branches, each beside its own uncached pictures.",
    cells=_cells,
    plot=_plot,
    schedulers=_SCHEDULERS,
)
