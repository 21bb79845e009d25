"""Distilled U-Nets beside caching at the interval that costs as much (DeepCache, table 4)."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from deepcache_trt.benchmarks.experiments.experiment import Experiment, Findings, Job
from deepcache_trt.benchmarks.experiments.options import Prompted

if TYPE_CHECKING:
    from deepcache_trt.benchmarks.experiments.comparison.cells import Cell
    from deepcache_trt.benchmarks.experiments.comparison.prompted import FromPrompts


@dataclass(frozen=True, kw_only=True)
class _Options(Prompted):
    model: Annotated[str, "That is cached: a catalogue name, a folder or hub id."] = "sd15"
    smaller: Annotated[tuple[str, ...], "Distilled models of it, uncached; repeatable."] = (
        "bk-sdm-base",
        "bk-sdm-small",
        "bk-sdm-tiny",
    )
    branch: Annotated[int, "Of caching: the skip connection at which the shallow layers begin."] = 0


def _find(options: _Options, job: Job) -> Findings:
    from deepcache_trt.benchmarks.experiments.comparison.compare import compare
    from deepcache_trt.benchmarks.experiments.comparison.prompted import FromPrompts, samples_of
    from deepcache_trt.benchmarks.experiments.comparison.table import findings
    from deepcache_trt.benchmarks.experiments.published import bk_sdm

    draws, samples = FromPrompts(options, job.store), samples_of(options, job.limit)
    results = compare(_cells(draws, options), samples, draws, job, clip=options.clip)
    told = bk_sdm(options.model, options.steps)
    return findings(results.with_scores({name: each.scores() for name, each in told.items()}), steps=options.steps)


def _cells(draws: "FromPrompts", options: _Options) -> "list[Cell]":
    """The model by itself, each smaller one, and the model cached at the interval whose operations come nearest."""
    from deepcache_trt.benchmarks.experiments.comparison.cells import UNCACHED, Cell, cached
    from deepcache_trt.runtime.plan import FULL

    macs = draws.macs(cached(2, options.branch))
    costs = {}
    for interval in range(1, options.steps + 1):
        calls = cached(interval, options.branch).policy.plan(options.steps).variants
        costs[interval] = sum(macs[call] for call in calls)
    cells = [UNCACHED]
    for model in options.smaller:
        cells.append(Cell(name=Path(model).name, policy=UNCACHED.policy, model=model, reference=UNCACHED.name))
        wanted = options.steps * draws.macs(cells[-1])[FULL]
        nearest = min(costs, key=lambda interval: abs(costs[interval] - wanted))
        cells.append(cached(nearest, options.branch, UNCACHED))
    return list(dict.fromkeys(cells))


EXPERIMENT = Experiment(
    name="bk-sdm",
    says="Distilled models beside caching at the interval that costs as much: time, CLIP score and fidelity.",
    options=_Options,
    find=_find,
)
