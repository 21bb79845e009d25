"""Whether caching makes the pictures of one prompt more alike."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from deepcache_trt.benchmarks.experiments.experiment import Experiment, Findings, Job
from deepcache_trt.benchmarks.experiments.options import Branches, Intervals, Prompted

if TYPE_CHECKING:
    from deepcache_trt.benchmarks.experiments.comparison.measure import Results


@dataclass(frozen=True, kw_only=True)
class _Options(Prompted):
    LEAST: ClassVar[Mapping[str, int]] = {**Prompted.LEAST, "seeds": 2}

    seeds: Annotated[int, "Pictures of each prompt."] = 4
    interval: Intervals = (3, 5, 10)
    branch: Branches = (0,)


def _find(options: _Options, job: Job) -> Findings:
    from deepcache_trt.benchmarks.experiments.comparison.cells import UNCACHED, cached
    from deepcache_trt.benchmarks.experiments.comparison.compare import compare
    from deepcache_trt.benchmarks.experiments.comparison.prompted import FromPrompts, samples_of
    from deepcache_trt.benchmarks.experiments.comparison.table import findings

    cells = [
        UNCACHED,
        *(cached(interval, branch, UNCACHED) for interval in options.interval for branch in options.branch),
    ]
    draws, samples = FromPrompts(options, job.store), samples_of(options, job.limit)
    results = compare(cells, samples, draws, job, clip=options.clip, between=True)
    return findings(results, steps=options.steps, plot=_plot)


def _plot(results: "Results", figure: Any) -> None:
    figure.set_size_inches(6, 3.8)
    axes = figure.subplots()
    values = [results.figures[cell.name]["mse_apart"] for cell in results.cells]
    axes.boxplot(values, tick_labels=[cell.name for cell in results.cells])
    axes.set(ylabel="MSE between two seeds of a prompt")
    axes.tick_params(axis="x", labelsize="small")
    axes.grid(axis="y", color="#dddddd")


EXPERIMENT = Experiment(
    name="diversity",
    says="Several seeds of each prompt: how far their pictures are apart, plain against cached.",
    options=_Options,
    find=_find,
)
