"""A pipeline's ControlNet on engines: at a cached step it computes only what the denoiser's cached step reads."""

from collections.abc import Mapping
from typing import Any

import torch

from deepcache_trt.foreign import Model, Pipeline
from deepcache_trt.models.architecture import Architecture
from deepcache_trt.pipelines.cached_denoiser import CachedDenoiser
from deepcache_trt.pipelines.engine_options import EngineOptions
from deepcache_trt.pipelines.live_component import LiveComponent
from deepcache_trt.runtime.plan import FULL, SKIP
from deepcache_trt.runtime.policies import Policy
from deepcache_trt.runtime.session import Session


class CachedControlNet(LiveComponent):
    """One ControlNet, with a variant for each of the denoiser that it steers."""

    def __init__(
        self,
        pipe: Pipeline,
        part: str,
        options: EngineOptions,
        denoiser: CachedDenoiser,
        *,
        name: str | None = None,
    ) -> None:
        """Arguments as for `LiveComponent`; `denoiser` is called after this at each step."""
        super().__init__(pipe, part, options, name=name)
        self._denoiser = denoiser
        self._last: dict[str, torch.Tensor] = {}
        self._generation = 0  # the session's number of the last one that is ours
        self._condition: tuple[torch.Tensor, int] | None = None  # the control image of the last full run, as it was

    @property
    def policy(self) -> Policy:  # type: ignore[override]
        """That of the denoiser."""
        return self._denoiser.policy

    def _run(self, model: Model, arguments: Mapping[str, Any]) -> Mapping[str, torch.Tensor]:
        tensors, sizes = self._tensors(model, arguments)
        if arguments.get("conditioning_scale") == 0:  # before `control_guidance_start` and after its end
            assert self._architecture is not None
            return _zeros(self._architecture, sizes, arguments["sample"].device)
        image: torch.Tensor = arguments["controlnet_cond"]
        return self._on_session(model, tensors, sizes, lambda session: self._step(session, image, tensors, sizes))

    def _step(
        self,
        session: Session,
        image: torch.Tensor,
        tensors: Mapping[str, torch.Tensor],
        sizes: Mapping[str, int],
    ) -> Mapping[str, torch.Tensor]:
        seen, version = self._condition or (None, None)
        is_ours = session.generation == self._generation and all(
            session.holds(name, sizes) for name in session.variants
        )
        is_embedded = is_ours and seen is image and version == image._version
        variant = self._denoiser.promise() if is_embedded else FULL
        if variant == FULL:
            self._generation = session.begin(forecast=None)
        if variant != SKIP:
            # What a cached step does not compute nobody reads there.
            self._last = {**self._last, **session.run(variant, tensors, sizes)}
        if variant == FULL:
            self._condition = image, image._version
        return self._last


def _zeros(architecture: Architecture, sizes: Mapping[str, int], device: torch.device) -> dict[str, torch.Tensor]:
    return {
        spec.name: torch.zeros(spec.resolve(sizes), dtype=getattr(torch, spec.dtype), device=device)
        for spec in architecture.outputs
    }
