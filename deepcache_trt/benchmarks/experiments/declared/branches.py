"""Every branch at fixed intervals: the layer-wise ablation (DeepCache, tables 7 and 8)."""

from dataclasses import dataclass
from functools import partial

from deepcache_trt.benchmarks.experiments.experiment import Experiment, Findings, Job
from deepcache_trt.benchmarks.experiments.options import Branches, Intervals, Prompted


@dataclass(frozen=True, kw_only=True)
class _Options(Prompted):
    interval: Intervals = (5,)
    branch: Branches = ()


def _find(options: _Options, job: Job) -> Findings:
    from deepcache_trt.benchmarks.experiments.comparison.cells import UNCACHED, cached
    from deepcache_trt.benchmarks.experiments.comparison.compare import compare
    from deepcache_trt.benchmarks.experiments.comparison.plots import error_and_time
    from deepcache_trt.benchmarks.experiments.comparison.prompted import FromPrompts, samples_of
    from deepcache_trt.benchmarks.experiments.comparison.table import findings

    draws = FromPrompts(options, job.store)
    cells = [
        UNCACHED,
        *(
            cached(interval, branch, UNCACHED, at=branch, line=f"interval {interval}")
            for interval in options.interval
            for branch in options.branch or range(draws.pipes().branches)
        ),
    ]
    results = compare(cells, samples_of(options, job.limit), draws, job, clip=options.clip)
    return findings(results, steps=options.steps, plot=partial(error_and_time, axis="branch"))


EXPERIMENT = Experiment(
    name="branches",
    says="Every branch at fixed intervals: operations, time, memory and fidelity.",
    options=_Options,
    find=_find,
)
