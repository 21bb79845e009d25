"""Pictures of many prompts, cached or not, to be judged by whatever one likes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from deepcache_trt.benchmarks.experiments.experiment import Experiment, Findings, Job
from deepcache_trt.benchmarks.experiments.options import Branches, Intervals, Prompted


@dataclass(frozen=True, kw_only=True)
class _Options(Prompted):
    interval: Intervals = ()
    branch: Branches = (0,)
    task: Annotated[str, "text2img, img2img or inpaint."] = "text2img"
    images: Annotated[Path | None, "To begin with: a picture for all prompts, or a folder of one for each."] = None
    masks: Annotated[Path | None, "Likewise, white where is painted."] = None
    strength: Annotated[float, "Of img2img and inpaint: how much is drawn anew, up to 1."] = 0.8


def _find(options: _Options, job: Job) -> Findings:
    from deepcache_trt.benchmarks.experiments.comparison.cells import UNCACHED, cached
    from deepcache_trt.benchmarks.experiments.comparison.compare import compare
    from deepcache_trt.benchmarks.experiments.comparison.prompted import FromPrompts, samples_of
    from deepcache_trt.benchmarks.experiments.comparison.starts import start_from
    from deepcache_trt.benchmarks.experiments.comparison.table import findings

    start = start_from(options.task, options.images, options.masks, options.strength)
    if start is not None:
        start.check(len(options.prompt))
    cells = [cached(interval, branch) for interval in options.interval for branch in options.branch] or [UNCACHED]
    draws, samples = FromPrompts(options, job.store, start), samples_of(options, job.limit)
    return findings(compare(cells, samples, draws, job, clip=options.clip), steps=options.steps)


EXPERIMENT = Experiment(
    name="generate",
    says="A picture of each prompt of a file, each from a seed of its own.",
    options=_Options,
    find=_find,
)
