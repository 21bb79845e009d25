"""Which models of a pipeline run on engines beside its denoiser."""

from typing import Any

from deepcache_trt.builder.component import DENOISERS
from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models.architectures import COVERED
from deepcache_trt.pipelines.cached_controlnet import CachedControlNet
from deepcache_trt.pipelines.cached_denoiser import CachedDenoiser
from deepcache_trt.pipelines.engine_options import EngineOptions
from deepcache_trt.pipelines.live_component import LiveComponent


def live_components(
    pipe: Any, options: EngineOptions, denoiser: CachedDenoiser, *, name: str | None
) -> list[LiveComponent]:
    """The components beside `denoiser` that run on engines.

    Raises:
        UnsupportedError: one that was asked for by name and is not covered, or not there.
    """
    covered = {part: models for part in pipe.components if part not in DENOISERS and (models := _covered(pipe, part))}
    wanted = list(covered)
    if options.components is not None:
        wanted = [part for part in options.components if part not in DENOISERS]
    for part in wanted:
        if part not in covered:
            raise UnsupportedError(
                f"{type(pipe).__name__} has no component {part!r} that can run on engines; "
                f"it has {', '.join(covered) or 'none'}"
            )
    return [
        CachedControlNet(pipe, path, options, denoiser, name=name)
        if kind == "ControlNetModel"
        else LiveComponent(pipe, path, options, name=name)
        for part in wanted
        for path, kind in covered[part].items()
    ]


def _covered(pipe: Any, part: str) -> dict[str, str]:
    """Where the covered models of a component are, and their classes: itself, or each of several ControlNets."""
    model = getattr(pipe, part)
    models = {part: model}
    if type(model).__name__ == "MultiControlNetModel":
        models = {f"{part}.nets.{i}": net for i, net in enumerate(model.nets)}
    kinds = {path: type(each).__name__ for path, each in models.items()}
    return {path: kind for path, kind in kinds.items() if kind in COVERED}
