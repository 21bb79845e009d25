"""Pictures of many prompts, cached or not, to be judged by whatever one likes."""

from collections.abc import Sequence

from deepcache_trt.benchmarks.experiments.experiment import Cell, Experiment, Setting
from deepcache_trt.runtime.policies import DeepCache, Uncached


def _cells(setting: Setting) -> Sequence[Cell]:
    if not setting.intervals:
        return [Cell(name="uncached", policy=Uncached())]
    return [
        Cell(
            name=f"interval {interval}, branch {branch}",
            policy=DeepCache(cache_interval=interval, cache_branch_id=branch),
        )
        for interval in setting.intervals
        for branch in setting.branches or (0,)
    ]


EXPERIMENT = Experiment(
    name="generate",
    says="A picture of each prompt of a file, each from a seed of its own.",
    cells=_cells,
)
