"""Ours as one of the systems that are compared: see `systems`."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deepcache_trt.benchmarks.timing.systems import Drawing, Picture
from deepcache_trt.pipelines.whole_loop import Run
from deepcache_trt.progress import quiet_libraries
from deepcache_trt.runtime.plan import FULL
from deepcache_trt.runtime.policies.deepcache import SHALLOW, DeepCache


def ours(
    picture: Mapping[str, Any],
    *,
    backend: str,
    params: Mapping[str, Any],
    store: str,
    keep_torch_weights: bool,
    exact: bool = False,
) -> Callable[[], dict[str, Any]]:
    """Our pipeline; beside what all give it has the figures of `_engine_figures`, and after the
    first one "capture_seconds" of recording CUDA graphs, where there are any.

    Args:
        picture: as a dictionary.
        backend: not "auto".
        params: fields of `DeepCache`.
        store: its folder.
        keep_torch_weights: as in `EngineOptions`.
        exact: take engines for exactly this size and batch, as `build` leaves them, and not whatever covers them.
    """
    from deepcache_trt import DeepCachePipeline

    chosen = Picture(**picture)
    options: dict[str, Any] = {**params, "backend": backend}
    options |= {"store": store, "keep_torch_weights": keep_torch_weights}
    if exact:
        options |= {"size": chosen.pixels, "batch": chosen.batch}
    drawing = Drawing(chosen, DeepCachePipeline, options)
    is_first = True

    def draw() -> dict[str, Any]:
        nonlocal is_first
        figures, run = drawing(), drawing.pipe.last_run
        if not is_first:
            return figures | _engine_figures(run)
        is_first = False
        return figures | ({} if run.recorded is None else {"capture_seconds": run.recorded.seconds})

    return draw


def build(picture: Mapping[str, Any], *, backend: str, branches: Sequence[int], store: str) -> Callable[[], Any]:
    """No picture, but what comes before: to load this is to export, build and check all that `ours` will open.

    The figure "built" names the engines that the store did not have. The arguments are those of `ours`; `branches` are
    all that will be asked for.
    """
    from deepcache_trt.builder.component import DENOISERS
    from deepcache_trt.builder.engines import build_pieces
    from deepcache_trt.builder.model_source import ModelSource, find_components
    from deepcache_trt.builder.shapes import shapes_from_text
    from deepcache_trt.builder.target import Target
    from deepcache_trt.engines import backends
    from deepcache_trt.engines.store import Store

    quiet_libraries()
    chosen, kept = Picture(**picture), Store(Path(store))
    shapes = shapes_from_text([str(chosen.pixels)], [str(chosen.batch)])
    target = Target(backend=backends.find(backend, chosen.device), store=kept, shapes=shapes)
    before = {artefact.key for artefact in kept.list() if artefact.kind == "engines"}
    built = []
    for component in find_components(ModelSource(model=chosen.folder), dtype=chosen.dtype):
        for branch in branches if component.part in DENOISERS else branches[:1]:
            for variant, artefact in build_pieces(component, DeepCache(cache_branch_id=branch), target).items():
                if artefact.key not in before:
                    built.append(
                        f"{component.part} {variant} (k = {branch})" if component.part in DENOISERS else component.part
                    )
    return lambda: {"built": built}


def _engine_figures(run: Run) -> dict[str, Any]:
    """What the engines did in one image.

    "way", and with "last_run_" before them the pipeline's own account of its seconds; "engines_seconds" of all calls of
    the denoiser; and of each variant how often it ran and the median of its runs.
    """
    figures: dict[str, Any] = {f"last_run_{name}_seconds": value for name, value in run.seconds.items()}
    figures |= {"way": run.way, "engines_seconds": sum(map(sum, run.runs.values()))}
    for variant in (FULL, SHALLOW):
        seconds = run.runs.get(variant, ())
        figures[f"{variant}_runs"] = len(seconds)
        figures[f"{variant}_seconds"] = statistics.median(seconds) if seconds else None
    return figures
