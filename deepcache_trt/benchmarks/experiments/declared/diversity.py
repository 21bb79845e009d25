"""Whether caching makes the pictures of one prompt more alike."""

from collections.abc import Sequence
from typing import Any

from deepcache_trt.benchmarks.experiments.experiment import Cell, Experiment, Setting
from deepcache_trt.benchmarks.experiments.measure import Results
from deepcache_trt.runtime.policies import DeepCache, Uncached


def _cells(setting: Setting) -> Sequence[Cell]:
    uncached, branch = Cell(name="uncached", policy=Uncached()), (setting.branches or (0,))[0]
    return [
        uncached,
        *(
            Cell(
                name=f"interval {interval}",
                policy=DeepCache(cache_interval=interval, cache_branch_id=branch),
                reference=uncached.name,
            )
            for interval in setting.intervals or (3, 5, 10)
        ),
    ]


def _plot(results: Results, figure: Any) -> None:
    figure.set_size_inches(6, 3.8)
    axes = figure.subplots()
    values = [results.figures[cell.name]["mse_apart"] for cell in results.cells]
    axes.boxplot(values, tick_labels=[cell.name for cell in results.cells])
    axes.set(ylabel="MSE between two seeds of a prompt")
    axes.grid(axis="y", color="#dddddd")


EXPERIMENT = Experiment(
    name="diversity",
    says="Several seeds of each prompt: how far their pictures are apart, plain against cached.",
    cells=_cells,
    plot=_plot,
    seeds=4,
    between=True,
)
