"""Which models of a pipeline run on engines beside its denoiser."""

from typing import Any

from deepcache_trt.builder.component import DENOISERS
from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models.registry import covered_models
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
    beside = [part for part in pipe.components if part not in DENOISERS]
    covered = {part: models for part in beside if (models := covered_models(part, getattr(pipe, part)))}
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
        if family.follows_denoiser
        else LiveComponent(pipe, path, options, name=name)
        for part in wanted
        for path, family in covered[part].items()
    ]
