"""LDM-4-G over intervals, evenly spaced and not: the table of a model of classes (DeepCache, tables 1 and 3)."""

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

from deepcache_trt.benchmarks.experiments.experiment import Experiment, Findings, Job
from deepcache_trt.benchmarks.experiments.options import Intervals, Unprompted

if TYPE_CHECKING:
    from deepcache_trt.benchmarks.experiments.comparison.cells import Cell

_GUIDANCE = 1.5


@dataclass(frozen=True, kw_only=True)
class _Options(Unprompted):
    model: Annotated[str, "A catalogue name, a folder or hub id."] = "ldm-4-g"
    steps: Annotated[int, "Denoising steps, of DDIM."] = 250
    guidance: Annotated[float | None, "Guidance scale. [default: 1.5 of a model of classes]"] = None
    interval: Intervals = (2, 3, 5, 10, 20)
    branch: Annotated[int, "The skip connection at which the shallow layers begin."] = 0
    power: Annotated[tuple[float, ...], "Exponents of quad, beside even spacing; repeatable."] = (1.2,)


def _find(options: _Options, job: Job) -> Findings:
    from deepcache_trt.benchmarks.experiments.comparison.cells import UNCACHED
    from deepcache_trt.benchmarks.experiments.comparison.plots import fid_and_time
    from deepcache_trt.benchmarks.experiments.comparison.sets import compare_sets
    from deepcache_trt.benchmarks.experiments.comparison.unprompted import WithoutPrompts

    draws = WithoutPrompts(options, job.store)
    if options.guidance is None and draws.classes:
        draws = WithoutPrompts(replace(options, guidance=_GUIDANCE), job.store)
    cells = [UNCACHED, *(cell for interval in options.interval for cell in _cells(interval, options))]
    return compare_sets(cells, draws, job, plot=partial(fid_and_time, axis="interval"))


def _cells(interval: int, options: _Options) -> "list[Cell]":
    from deepcache_trt.benchmarks.experiments.comparison.cells import UNCACHED, Cell
    from deepcache_trt.runtime.policies import DeepCache

    uniform = DeepCache(cache_interval=interval, cache_branch_id=options.branch)
    ways = {"uniform": uniform}
    ways |= {f"quad {power:g}": replace(uniform, skip_mode="quad", pow=power) for power in options.power}
    return [
        Cell(name=f"interval {interval}, {way}", policy=policy, reference=UNCACHED.name, at=interval, line=way)
        for way, policy in ways.items()
    ]


EXPERIMENT = Experiment(
    name="ldm",
    says="A model of classes over intervals, uniform and quad: speed, FID and the other figures of sets of images.",
    options=_Options,
    find=_find,
)
