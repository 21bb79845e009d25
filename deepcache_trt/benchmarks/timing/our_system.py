"""Ours as one of the systems that are compared: see `systems`."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deepcache_trt.benchmarks.timing.systems import Drawing, Picture
from deepcache_trt.builder.component import Component
from deepcache_trt.models.taps import Variant
from deepcache_trt.pipelines.whole_loop import Run
from deepcache_trt.progress import quiet_libraries
from deepcache_trt.runtime.plan import FULL
from deepcache_trt.runtime.policies.deepcache import SHALLOW
from deepcache_trt.runtime.policies.policy import policy_from_json


def ours(
    picture: Mapping[str, Any],
    *,
    backend: str,
    policy: Mapping[str, Any],
    store: str,
    keep_torch_weights: bool,
    exact: bool = False,
    quantizing: Mapping[str, Any] | None = None,
) -> Callable[[], dict[str, Any]]:
    """Our pipeline; beside what all give it has the figures of `_engine_figures`, and after the
    first one "capture_seconds" of recording CUDA graphs, where there are any.

    Args:
        picture: as a dictionary.
        backend: not "auto".
        policy: how it caches, as `Policy.to_json` gives it.
        store: its folder.
        keep_torch_weights: as in `EngineOptions`.
        quantizing: `precision`, `quantize` and `calibration_prompts` of `EngineOptions`; None: nothing is quantized.
        exact: take engines for exactly this size and batch, as `build` leaves them, and not whatever covers them.
    """
    from deepcache_trt import DeepCachePipeline

    chosen = Picture(**picture)
    options: dict[str, Any] = {"policy": policy_from_json(policy), "backend": backend}
    options |= {"store": store, "keep_torch_weights": keep_torch_weights}
    options |= quantizing or {}
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


def build(
    picture: Mapping[str, Any],
    *,
    backend: str,
    policies: Sequence[Mapping[str, Any]],
    store: str,
    quantizing: Mapping[str, Any] | None = None,
) -> Callable[[], Any]:
    """No picture, but what comes before: to load this is to export, build and check all that `ours` will open.

    The figure "built" names the engines that the store did not have. The arguments are those of `ours`; `policies` are
    all that will be asked for.
    """
    from deepcache_trt.builder.engines import build_pieces
    from deepcache_trt.builder.model_source import ModelSource, find_components
    from deepcache_trt.builder.pieces import is_cached, variants_of
    from deepcache_trt.builder.shapes import shapes_from_text
    from deepcache_trt.builder.target import Target
    from deepcache_trt.engines import backends
    from deepcache_trt.engines.store import Store
    from deepcache_trt.pipelines.calibrating.checkpoint import quantized_checkpoint
    from deepcache_trt.pipelines.engine_options import EngineOptions

    quiet_libraries()
    chosen, kept = Picture(**picture), Store(Path(store))
    shapes = shapes_from_text([str(chosen.pixels)], [str(chosen.batch)])
    target = Target(backend=backends.find(backend, chosen.device), store=kept, shapes=shapes)
    before = {artefact.key for artefact in kept.list() if artefact.kind == "engines"}
    built = []
    source = ModelSource(model=chosen.folder)
    options = EngineOptions(store=store, **(quantizing or {}))
    for component in find_components(source, dtype=chosen.dtype):
        wanted = {
            # The scales of a quantized denoiser are those of a schedule; other engines serve each of their variants.
            (
                variants_of(component.architecture, policy, component.name),
                is_cached(component.architecture) and options.precision and policy,
            ): policy
            for policy in map(policy_from_json, policies)
        }
        for (variants, _), policy in wanted.items():
            (made,) = quantized_checkpoint(
                [component], source, policy, options, dtype=chosen.dtype, device=chosen.device
            )
            artefacts = build_pieces(made, policy, target)
            built += [_in_words(component, each) for each in variants if artefacts[each.name].key not in before]
    return lambda: {"built": built}


def _in_words(component: Component, variant: Variant) -> str:
    """As "unet shallow (tap_0)", with the taps that it takes and gives."""
    taps = ", ".join((*variant.consumes, *variant.emits))
    return f"{component.part} {variant.name} ({taps})" if taps else component.part


def _engine_figures(run: Run) -> dict[str, Any]:
    """What the engines did in one image.

    "way", and with "last_run_" before them the pipeline's own account of its seconds; "engines_seconds" of all calls of
    the denoiser; and of each variant how often it ran and the median of its runs.
    """
    figures: dict[str, Any] = {f"last_run_{name}_seconds": value for name, value in run.seconds.items()}
    figures |= {"way": run.way, "engines_seconds": sum(map(sum, run.runs.values()))}
    for variant in dict.fromkeys((FULL, SHALLOW, *run.runs)):
        seconds = run.runs.get(variant, ())
        figures[f"{variant}_runs"] = len(seconds)
        figures[f"{variant}_seconds"] = statistics.median(seconds) if seconds else None
    return figures
