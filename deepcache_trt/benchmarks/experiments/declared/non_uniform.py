"""Full steps that are evenly spaced beside those that are not (DeepCache, section 4.4 and table 9)."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from deepcache_trt.benchmarks.experiments.experiment import Cell, Experiment, Setting
from deepcache_trt.benchmarks.experiments.measure import Results
from deepcache_trt.benchmarks.experiments.report import plot_error_and_time
from deepcache_trt.errors import DeepCacheError
from deepcache_trt.runtime.policies import DeepCache, Uncached

_INTERVALS = (2, 3, 5, 8)
_POWERS = (1.2, 1.5)
_CENTERS = (0.2, 0.3, 0.5)  # of the steps


def _cells(setting: Setting) -> Sequence[Cell]:
    uncached, branch = Cell(name="uncached", policy=Uncached()), (setting.branches or (0,))[0]
    cells = [uncached]
    for interval in setting.intervals or _INTERVALS:
        ways: dict[str, dict[str, Any]] = {"uniform": {}}
        ways |= {f"quad {power:g}": {"skip_mode": "quad", "pow": power} for power in _POWERS}
        ways |= {
            f"quad {power:g} around {share:.0%}": {
                "skip_mode": "quad_center",
                "pow": power,
                "center": max(1, round(share * setting.steps)),
            }
            for power in _POWERS
            for share in _CENTERS
        }
        met = set[tuple[str, ...]]()
        for way, options in ways.items():
            policy = DeepCache(cache_interval=interval, cache_branch_id=branch, **options)
            with suppress(DeepCacheError):  # some intervals have no such schedule
                plan = policy.plan(setting.steps).variants
                if plan not in met:  # an exponent is lowered where calls would coincide, until two are one
                    cell = Cell(name=f"interval {interval}, {way}", policy=policy, reference=uncached.name)
                    cells.append(replace(cell, at=interval, line=way))
                    met.add(plan)
    return cells


def _plot(results: Results, figure: Any) -> None:
    plot_error_and_time(results, figure, "interval")


EXPERIMENT = Experiment(
    name="non-uniform",
    says="Uniform full steps against quad and quad_center over intervals, with power and center swept.",
    cells=_cells,
    plot=_plot,
)
