"""DDPM over intervals and branches: the sampling table of an unconditional model (DeepCache, table 2)."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from deepcache_trt.benchmarks.experiments.experiment import Experiment, Findings, Job
from deepcache_trt.benchmarks.experiments.options import Branches, Intervals, Unprompted


@dataclass(frozen=True, kw_only=True)
class _Options(Unprompted):
    model: Annotated[str, "A catalogue name, a folder or hub id."] = "digits-ddpm"
    interval: Intervals = (2, 3, 5, 10)
    branch: Branches = (2,)


def _find(options: _Options, job: Job) -> Findings:
    from deepcache_trt.benchmarks.experiments.comparison.cells import over_intervals
    from deepcache_trt.benchmarks.experiments.comparison.plots import fid_and_time
    from deepcache_trt.benchmarks.experiments.comparison.sets import compare_sets
    from deepcache_trt.benchmarks.experiments.comparison.unprompted import WithoutPrompts

    cells = over_intervals(options.interval, options.branch)
    draws = WithoutPrompts(options, job.store)
    return compare_sets(cells, draws, job, plot=partial(fid_and_time, axis="interval"))


EXPERIMENT = Experiment(
    name="ddpm",
    says="An unconditional model over intervals: speed, FID and the other figures of sets of images.",
    options=_Options,
    find=_find,
)
