"""The per-step way in: a pipeline runs its own loop, and each call of its denoiser goes to an engine.

A generation begins when the scheduler has got a new table of timesteps, so calls in a row, changed parameters,
strengths and sizes all start from a fresh plan and empty taps. Where a pipeline denoises several times by one table, in
its method `backward_loop`, each time is a generation.
"""

import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from deepcache_trt.builder.component import DENOISERS, dtype_of
from deepcache_trt.builder.engines import check_branch
from deepcache_trt.builder.shapes import check_sizes
from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models.architecture import OUTPUT, Architecture
from deepcache_trt.models.registry import COVERED_DENOISERS, architecture_of
from deepcache_trt.pipelines.live_component import EngineOptions, LiveComponent
from deepcache_trt.progress import Progress, shown
from deepcache_trt.runtime.plan import FEW_CALLS, FULL, CacheParams, Plan, gain_in_words, make_plan
from deepcache_trt.runtime.session import Session

_log = logging.getLogger(__name__)
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
        super().__init__(pipe, _part_of_denoiser(pipe), options, name=name, progress=progress)
        self.plan = Plan(variants=())  # of the last generation
        self.first_call: FirstCall | None = None  # while it is the only one of its generation
        self._timesteps: Any = None
        self._few_calls: set[Plan] = set()  # of which the log has told
        self._backward_loop: Callable[..., Any] | None = None  # in the place of the pipeline's own
        self._backward_calls: int | None = None  # of the `backward_loop` that runs now
        self._calls = 0
        self._is_finished = False
        self._generation = 0  # of the session
        self._promised = FULL  # of the next call, if anyone has asked
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
        check_sizes(architecture, latents)

    def install(self) -> None:
        """Send the calls of the denoiser here until `remove`."""
        if self._installed_on is not self.model:
            self._timesteps = None
        super().install()
        if hasattr(self._pipe, "backward_loop") and "backward_loop" not in vars(self._pipe):
            self._backward_loop = self._pipe.backward_loop = self._listening(self._pipe.backward_loop)

    def remove(self) -> None:
        """Give the model its own `forward` back, and the pipeline its own loop."""
        super().remove()
        if vars(self._pipe).get("backward_loop") is self._backward_loop:
            vars(self._pipe).pop("backward_loop", None)

    def _listening(self, backward_loop: Callable[..., Any]) -> Callable[..., Any]:
        """The same loop as a generation of its own: what came before it may have had another batch."""

        @functools.wraps(backward_loop)
        def loop(*args: Any, **kwargs: Any) -> Any:
            timesteps = inspect.signature(backward_loop).bind(*args, **kwargs).arguments["timesteps"]
            self._backward_calls, self._timesteps = len(timesteps), None
            try:
                return backward_loop(*args, **kwargs)
            finally:
                self._backward_calls = self._timesteps = None

        return loop

    def finish(self) -> None:
        """The rest of the generation has been run by the loop: answer what is still asked with the last prediction."""
        self._is_finished = True

    def promise(self) -> str:
        """The variant of the next call, for a model that computes nothing but what that call reads."""
        session = self.session
        goes_on = not self._begins() and session is not None and session.generation == self._generation
        self._promised = self._planned() if goes_on else FULL
        return self._promised

    def _begins(self) -> bool:
        return self._pipe.scheduler.timesteps is not self._timesteps

    def _planned(self) -> str:
        return self.plan.variants[self._calls] if self._calls < len(self.plan) else FULL

    def _run(self, model: Any, arguments: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        begins = self._begins()
        if self._is_finished and not begins:
            return self._last
        if begins:
            self._is_checked = False
        tensors, sizes = self._tensors(model, arguments)
        session = self._session_for(model, tensors, sizes)
        if begins:
            self._timesteps = self._pipe.scheduler.timesteps
            self.plan = self._new_plan()
            self._tell_of_few_calls()
            self._calls, self._is_finished, self._promised = 0, False, FULL
        if begins or session.generation != self._generation:  # another pipeline has drawn in between
            self._generation = session.begin(forecast=self.plan.forecast)
        variant = self._planned() if session.holds_taps(sizes) else FULL
        self._keep_promise(variant, sizes)
        call, self._calls = self._calls, self._calls + 1
        self._last = session.run(variant, tensors, sizes, call=call)
        self.first_call = FirstCall(session=session, prediction=self._last[OUTPUT]) if begins else None
        return self._last

    def _keep_promise(self, variant: str, sizes: Mapping[str, int]) -> None:
        promised, self._promised = self._promised, FULL
        if variant == FULL and promised != FULL:
            raise UnsupportedError(
                f"{self.part} is called with other sizes ({sizes}) in the middle of an image, where its ControlNet was "
                f"called with the same; change both in the callback, or set cache_interval=1"
            )

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
        calls = self._backward_calls or getattr(self._pipe, "_num_timesteps", None) or len(self._timesteps)
        return make_plan(self.params, min(calls, len(self._timesteps)))

    def _tell_of_few_calls(self) -> None:
        if len(self.plan) <= FEW_CALLS and self.plan not in self._few_calls:
            _log.info("%s %s: %s", self.name, self.part, gain_in_words(self.plan))
            self._few_calls.add(self.plan)


def denoiser_of(pipe: Any) -> Any:
    """The model that a pipeline calls at every step; raises as `_part_of_denoiser`."""
    return getattr(pipe, _part_of_denoiser(pipe))


def _part_of_denoiser(pipe: Any) -> str:
    """The attribute that holds the denoiser.

    Raises:
        UnsupportedError: there is none, or one of a class that is not covered.
    """
    covered = f"covered are {', '.join(COVERED_DENOISERS)}; run this pipeline with diffusers alone"
    for part in DENOISERS:
        model = getattr(pipe, part, None)
        if isinstance(model, torch.nn.Module):
            if type(model).__name__ in COVERED_DENOISERS:
                return part
            kind = type(model).__name__
            raise UnsupportedError(f"{kind}, the {part} of {type(pipe).__name__}, is not covered; {covered}")
    raise UnsupportedError(f"{type(pipe).__name__} has no {' and no '.join(DENOISERS)} that could be cached; {covered}")
