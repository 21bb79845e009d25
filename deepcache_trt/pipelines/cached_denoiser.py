"""The per-step way in: a pipeline runs its own loop, and each call of its denoiser goes to an engine.

A generation begins when the scheduler has got a new table of timesteps, so calls in a row, changed parameters,
strengths and sizes all start from a fresh plan and empty taps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models.architectures import architecture_of
from deepcache_trt.models.part import OUTPUT, Architecture
from deepcache_trt.pipelines.build import check_branch
from deepcache_trt.pipelines.component import DENOISERS, dtype_of
from deepcache_trt.pipelines.live_component import EngineOptions, LiveComponent
from deepcache_trt.pipelines.shapes import widest_profile
from deepcache_trt.progress import Progress, shown
from deepcache_trt.runtime.plan import FULL, CacheParams, Plan, make_plan
from deepcache_trt.runtime.session import Session

_PRECISIONS = ("float32", "float16", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class FirstCall:
    """The first call of a generation: the session whose buffers hold it, and what the model returned."""

    session: Session
    prediction: torch.Tensor


class CachedDenoiser(LiveComponent):
    """A pipeline's denoiser on engines, full and shallow ones in the order of a plan."""

    def __init__(
        self,
        pipe: Any,
        params: CacheParams,
        options: EngineOptions,
        *,
        name: str | None = None,
        progress: Progress = shown,
    ) -> None:
        """Check `params` and the model; nothing is built before the first call.

        Raises:
            UnsupportedError: the pipeline's denoiser is not covered.
            UnknownNameError: no such branch.
        """
        super().__init__(pipe, _denoiser_of(pipe), options, name=name, progress=progress)
        self.plan = Plan(variants=())  # of the last generation
        self.first_call: FirstCall | None = None  # while it is the only one of its generation
        self._timesteps: Any = None
        self._calls = 0
        self._is_finished = False
        self._last: dict[str, torch.Tensor] = {}
        self.params = params
        self.check(params)

    @property
    def branch(self) -> int:  # type: ignore[override]
        """DeepCache's k."""
        return self.params.cache_branch_id

    def check(self, params: CacheParams) -> None:
        """Raise unless the model has the branch of `params` and a precision that engines have."""
        architecture = self._architecture_now()
        check_branch(architecture, params.cache_branch_id, self.name)

    def check_size(self, height: Any, width: Any) -> None:
        """Raise ShapeError for pixels that the denoiser cannot take, before a prompt is encoded in vain."""
        factor = getattr(self._pipe, "vae_scale_factor", None)
        pixels = {"height": height, "width": width}
        latents = {axis: size // factor for axis, size in pixels.items() if factor and isinstance(size, int)}
        architecture = self._architecture_now()
        widest_profile(architecture).check(latents, size_multiple=architecture.size_multiple)

    def install(self) -> None:
        """Send the calls of the denoiser here until `remove`."""
        if self._installed_on is not self.model:
            self._timesteps = None
        super().install()

    @property
    def engine_seconds(self) -> float:
        """Spent in the engines, those that are closed by now included."""
        return self._closed_seconds + (self._session.seconds if self._session is not None else 0.0)

    def finish(self) -> None:
        """The rest of the generation has been run by the loop: answer what is still asked with the last prediction."""
        self._is_finished = True

    def _run(self, model: Any, arguments: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        timesteps = self._pipe.scheduler.timesteps
        begins = timesteps is not self._timesteps
        if self._is_finished and not begins:
            return self._last
        if begins:
            self._is_checked = False
        tensors, sizes = self._tensors(model, arguments)
        session = self._session_for(model, tensors, sizes)
        if begins:
            self._timesteps = timesteps
            self.plan = self._new_plan()
            self._calls, self._is_finished = 0, False
            session.begin(forecast=self.plan.forecast)
        call, self._calls = self._calls, self._calls + 1
        variant = self.plan.variants[call] if call < len(self.plan) and session.holds_taps(sizes) else FULL
        self._last = session.run(variant, tensors, sizes, call=call)
        self.first_call = FirstCall(session=session, prediction=self._last[OUTPUT]) if begins else None
        return self._last

    def _architecture_now(self) -> Architecture:
        dtype = dtype_of(self.model)
        if dtype not in _PRECISIONS:
            raise UnsupportedError(
                f"the weights of {self.part} are {dtype}, and engines have {', '.join(_PRECISIONS)}; "
                f"call pipe.to(torch.float32), or pipe.disable_cache() for this image"
            )
        return architecture_of(self.model, dtype=dtype)

    def _new_plan(self) -> Plan:
        # Pipelines that shorten the table, as image to image does, keep the number of calls here.
        calls = getattr(self._pipe, "_num_timesteps", None) or len(self._timesteps)
        return make_plan(self.params, min(calls, len(self._timesteps)))


def _denoiser_of(pipe: Any) -> str:
    """The attribute that holds the denoiser."""
    for part in DENOISERS:
        if isinstance(getattr(pipe, part, None), torch.nn.Module):
            return part
    raise UnsupportedError(f"{type(pipe).__name__} has neither a unet nor a transformer")
