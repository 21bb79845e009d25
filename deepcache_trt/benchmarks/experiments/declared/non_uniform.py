"""Full steps that are evenly spaced beside those that are not (DeepCache, section 4.4 and table 9)."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from deepcache_trt.benchmarks.experiments.experiment import Experiment, Findings, Job
from deepcache_trt.benchmarks.experiments.options import Intervals, Prompted
from deepcache_trt.errors import DeepCacheError

if TYPE_CHECKING:
    from deepcache_trt.benchmarks.experiments.comparison.cells import Cell


@dataclass(frozen=True, kw_only=True)
class _Options(Prompted):
    interval: Intervals = (2, 3, 5, 8)
    branch: Annotated[int, "The skip connection at which the shallow layers begin."] = 0
    power: Annotated[tuple[float, ...], "Exponents of quad and quad_center; repeatable."] = (1.2, 1.5)
    center: Annotated[tuple[float, ...], "Centers of quad_center, as shares of the steps; repeatable."] = (
        0.2,
        0.3,
        0.5,
    )


def _find(options: _Options, job: Job) -> Findings:
    from deepcache_trt.benchmarks.experiments.comparison.cells import UNCACHED
    from deepcache_trt.benchmarks.experiments.comparison.compare import compare
    from deepcache_trt.benchmarks.experiments.comparison.plots import error_and_time
    from deepcache_trt.benchmarks.experiments.comparison.prompted import FromPrompts, samples_of
    from deepcache_trt.benchmarks.experiments.comparison.table import findings

    draws, samples = FromPrompts(options, job.store), samples_of(options, job.limit)
    results = compare([UNCACHED, *_cells(options)], samples, draws, job, clip=options.clip)
    return findings(results, steps=options.steps, plot=partial(error_and_time, axis="interval"))


def _cells(options: _Options) -> "Iterator[Cell]":
    from deepcache_trt.benchmarks.experiments.comparison.cells import UNCACHED, Cell
    from deepcache_trt.runtime.policies import DeepCache

    for interval in options.interval:
        met = set[tuple[str, ...]]()
        for way, given in _ways(options).items():
            policy = DeepCache(cache_interval=interval, cache_branch_id=options.branch, **given)
            with suppress(DeepCacheError):  # some intervals have no such schedule
                plan = policy.plan(options.steps).variants
                if plan not in met:  # an exponent is lowered where calls would coincide, until two are one
                    met.add(plan)
                    name = f"interval {interval}, {way}"
                    yield Cell(name=name, policy=policy, reference=UNCACHED.name, at=interval, line=way)


def _ways(options: _Options) -> dict[str, dict[str, Any]]:
    ways: dict[str, dict[str, Any]] = {"uniform": {}}
    for power in options.power:
        ways[f"quad {power:g}"] = {"skip_mode": "quad", "pow": power}
    for power in options.power:
        for share in options.center:
            center = max(1, round(share * options.steps))
            ways[f"quad {power:g} around {share:.0%}"] = {"skip_mode": "quad_center", "pow": power, "center": center}
    return ways


EXPERIMENT = Experiment(
    name="non-uniform",
    says="Uniform full steps against quad and quad_center over intervals, with power and center swept.",
    options=_Options,
    find=_find,
)
