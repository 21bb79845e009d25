"""Distilled U-Nets beside caching at the interval that costs as much (DeepCache, table 4)."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from deepcache_trt.benchmarks.experiments.experiment import Experiment, Findings, Job
from deepcache_trt.benchmarks.experiments.options import Prompted
from deepcache_trt.runtime.plan import FULL

if TYPE_CHECKING:
    from deepcache_trt.benchmarks.counting.model_counts import ModelCounts
    from deepcache_trt.benchmarks.experiments.comparison.cells import Cell


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
    results = compare(_cells(options, job), samples, draws, job, clip=options.clip)
    told = bk_sdm(options.model, options.steps)
    return findings(results.with_scores({name: each.scores() for name, each in told.items()}), steps=options.steps)


def _cells(options: _Options, job: Job) -> "list[Cell]":
    """The model by itself, each smaller one, and the model cached at the interval whose operations come nearest."""
    from deepcache_trt.benchmarks.experiments.comparison.cells import UNCACHED, Cell, cached

    branch, counts = options.branch, _counts(options.model, options, job)
    full, shallow = counts.full.macs.total, counts.shallow[branch].cost.macs.total
    costs = {}
    for interval in range(1, options.steps + 1):
        calls = cached(interval, branch).policy.plan(options.steps).variants
        costs[interval] = sum(full if call == FULL else shallow for call in calls)
    cells = [UNCACHED]
    for model in options.smaller:
        cells.append(Cell(name=Path(model).name, policy=UNCACHED.policy, model=model, reference=UNCACHED.name))
        wanted = options.steps * _counts(model, options, job).full.macs.total
        cells.append(cached(min(costs, key=lambda each: abs(costs[each] - wanted)), branch, UNCACHED))
    return list(dict.fromkeys(cells))


def _counts(model: str, options: _Options, job: Job) -> "ModelCounts":
    from deepcache_trt.benchmarks.counting.model_counts import count_model
    from deepcache_trt.engines.store import Store, default_root

    return count_model(
        model,
        dtype=str(options.dtype),
        size=None,
        batch=1,
        tokens=None,
        branches=(options.branch,) if model == options.model else (),
        store=Store(job.store or default_root()),
        progress=job.progress,
    )


EXPERIMENT = Experiment(
    name="bk-sdm",
    says="Distilled models beside caching at the interval that costs as much: time, CLIP score and fidelity.",
    options=_Options,
    find=_find,
)
