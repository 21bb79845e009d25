"""Caching under different samplers, each beside itself without a cache."""

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

from deepcache_trt.benchmarks.experiments.experiment import Experiment, Findings, Job
from deepcache_trt.benchmarks.experiments.options import Branches, Intervals, Prompted

if TYPE_CHECKING:
    from deepcache_trt.benchmarks.experiments.comparison.cells import Cell
    from deepcache_trt.samplers import Sampler

# DeepCache's ablation has the first three.
_SCHEDULERS = ("ddim", "pndm", "pndm,skip_prk_steps=true", "dpmsolvermultistep", "eulerdiscrete", "unipc")


@dataclass(frozen=True, kw_only=True)
class _Options(Prompted):
    scheduler: Annotated[tuple[str, ...], "Of diffusers, as unipc or ddim,timestep_spacing=trailing; repeatable."] = (
        _SCHEDULERS
    )
    interval: Intervals = (2, 3, 5)
    branch: Branches = (0,)


def _find(options: _Options, job: Job) -> Findings:
    from deepcache_trt.benchmarks.experiments.comparison.compare import compare
    from deepcache_trt.benchmarks.experiments.comparison.plots import error_and_time
    from deepcache_trt.benchmarks.experiments.comparison.prompted import FromPrompts, samples_of
    from deepcache_trt.benchmarks.experiments.comparison.table import findings
    from deepcache_trt.samplers import parse_sampler

    draws, samples = FromPrompts(options, job.store), samples_of(options, job.limit)
    own = draws.pipes().own_scheduler
    cells = [cell for each in options.scheduler for cell in _cells(parse_sampler(each, own), options)]
    results = compare(cells, samples, draws, job, clip=options.clip)
    return findings(results, steps=options.steps, plot=partial(error_and_time, axis="interval"))


def _cells(sampler: "Sampler", options: _Options) -> "list[Cell]":
    from deepcache_trt.benchmarks.experiments.comparison.cells import UNCACHED, cached

    def with_sampler(cell: "Cell") -> "Cell":
        return replace(cell, name=f"{sampler.name}, {cell.name}", sampler=sampler)

    uncached = with_sampler(UNCACHED)
    return [
        uncached,
        *(
            with_sampler(cached(interval, branch, uncached, at=interval, line=f"{sampler.name}, branch {branch}"))
            for branch in options.branch
            for interval in options.interval
        ),
    ]


EXPERIMENT = Experiment(
    name="schedulers",
    says="Samplers by intervals and branches, each beside its own uncached pictures.",
    options=_Options,
    find=_find,
)
