"""A DiT with a router at several thresholds, beside rivals of the same cost (Learning-to-Cache, tables 1 and 2)."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from deepcache_trt.benchmarks.experiments.experiment import Experiment, Findings, Job
from deepcache_trt.benchmarks.experiments.options import Unprompted

if TYPE_CHECKING:
    from deepcache_trt.benchmarks.experiments.comparison.cells import Cell
    from deepcache_trt.benchmarks.experiments.comparison.measure import Results
    from deepcache_trt.runtime.policies import Policy


@dataclass(frozen=True, kw_only=True)
class _Options(Unprompted):
    model: Annotated[str, "A catalogue name, a folder or hub id."] = "digits-dit"
    steps: Annotated[int, "Denoising steps, of DDIM: as many as the router has."] = 20
    guidance: Annotated[float | None, "Guidance scale. [default: 1.5]"] = 1.5
    router: Annotated[Path | None, "As train-router writes it, or Learning-to-Cache's .pt. [default: the model's]"] = (
        None
    )
    threshold: Annotated[tuple[float, ...], "A tap whose score is above it is computed; repeatable."] = (0.5,)


def _find(options: _Options, job: Job) -> Findings:
    from deepcache_trt.benchmarks.experiments.comparison.sets import compare_sets
    from deepcache_trt.benchmarks.experiments.comparison.unprompted import WithoutPrompts
    from deepcache_trt.models.catalogue import resolve
    from deepcache_trt.runtime.policies.router_file import read_router

    logits = read_router(options.router or resolve(options.model)).logits
    return compare_sets(_cells(logits, options), WithoutPrompts(options, job.store), job, plot=_plot)


def _cells(logits: Any, options: _Options) -> "list[Cell]":
    """The router at each threshold; as many taps at random; and as few steps as cost the same."""
    from deepcache_trt.benchmarks.experiments.comparison.cells import UNCACHED, Cell
    from deepcache_trt.runtime.policies import Router, Uncached
    from deepcache_trt.runtime.policies.router import masks_at, random_masks

    cells = [UNCACHED]
    for threshold in options.threshold:
        router = Router(masks=masks_at(logits, threshold))
        at = router.removed
        rivals: dict[str, tuple[Policy, int | None, str]] = {
            f"router, threshold {threshold:g}": (router, None, "router"),
            f"as many as at {threshold:g} at random": (Router(masks=random_masks(router.masks, 0)), None, "random"),
        }
        fewer = max(2, round(options.steps * (1 - at / 2)))
        rivals[f"{fewer} steps"] = Uncached(), fewer, "fewer steps"
        cells += [
            Cell(name=name, policy=policy, steps=steps, reference=UNCACHED.name, at=100 * at, line=line)
            for name, (policy, steps, line) in rivals.items()
        ]
    return list({cell.name: cell for cell in cells}.values())


def _plot(results: "Results", figure: Any) -> None:
    from deepcache_trt.benchmarks.experiments.comparison.plots import fid_and_time

    fid_and_time(results, figure, axis="taps that are reused in the cached steps, %")


EXPERIMENT = Experiment(
    name="dit",
    says="A transformer of classes with a router, beside random masks and fewer steps: speed and figures of sets.",
    options=_Options,
    find=_find,
)
