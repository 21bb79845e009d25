"""Pictures of many prompts, cached or not, to be judged by whatever one likes."""

from dataclasses import dataclass

from deepcache_trt.benchmarks.experiments.experiment import Experiment, Findings, Job
from deepcache_trt.benchmarks.experiments.options import Branches, Intervals, Prompted


@dataclass(frozen=True, kw_only=True)
class _Options(Prompted):
    interval: Intervals = ()
    branch: Branches = (0,)


def _find(options: _Options, job: Job) -> Findings:
    from deepcache_trt.benchmarks.experiments.comparison.cells import UNCACHED, cached
    from deepcache_trt.benchmarks.experiments.comparison.compare import compare
    from deepcache_trt.benchmarks.experiments.comparison.prompted import FromPrompts, samples_of
    from deepcache_trt.benchmarks.experiments.comparison.table import findings

    cells = [cached(interval, branch) for interval in options.interval for branch in options.branch] or [UNCACHED]
    draws, samples = FromPrompts(options, job.store), samples_of(options, job.limit)
    return findings(compare(cells, samples, draws, job, clip=options.clip), steps=options.steps)


EXPERIMENT = Experiment(
    name="generate",
    says="A picture of each prompt of a file, each from a seed of its own.",
    options=_Options,
    find=_find,
)
