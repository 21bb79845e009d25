"""The whole-loop way in: from its first `scheduler.step` on, a pipeline's denoising runs without the pipeline.

The first call of the denoiser has told us the conditioning, the first `step` the latents. What the pipeline made of
them is compared with what the loop would make of them, and only if they agree does the loop run all further calls. The
pipeline's remaining iterations are then left out by its own `interrupt` flag; where it has none its denoiser answers
with what it said last, and `step` with the final latents. No `__call__` of diffusers is copied.
"""

import functools
import inspect
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from deepcache_trt.models.registry import family_of
from deepcache_trt.pipelines.cached_denoiser import CachedDenoiser, denoiser_of
from deepcache_trt.pipelines.inpainting import Inpainting
from deepcache_trt.pipelines.live_component import LiveComponent
from deepcache_trt.runtime.guidance import Guidance
from deepcache_trt.runtime.loop import denoise
from deepcache_trt.runtime.plan import Plan
from deepcache_trt.runtime.sampler_table import NoTable, SamplerTable
from deepcache_trt.runtime.scheduler_probe import probe, state_key

# How far the pipeline's own arithmetic may be from ours, by the dtype of the latents.
_ROUNDING = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}

_TABLES = 16


@dataclass(frozen=True, kw_only=True)
class Run:
    """What happened in one call of a pipeline.

    Attributes:
        way: "whole loop" or "per step".
        reason: why it was not the whole loop; "" where it was.
        plan: the variant of each call of the denoiser.
        seconds: spent in the pipeline's calls of each component, in the "loop" after the denoiser's first call, in
            "total", and, of the denoiser's calls and the loop together, in its "engines". On a GPU they count what the
            host waited for, and steps that were recorded into CUDA graphs count as loop.
    """

    way: str
    reason: str
    plan: Plan
    seconds: Mapping[str, float] = field(default_factory=dict)


class WholeLoop:
    """Takes over a pipeline's loop for one call, where that makes the same image."""

    def __init__(self, pipe: Any, denoiser: CachedDenoiser, arguments: Mapping[str, Any]) -> None:
        """Look at the pipeline and the arguments of its call; nothing is changed before `installed`."""
        self._pipe = pipe
        self._denoiser = denoiser
        self._arguments = arguments
        self._bar: _Bar | None = None
        self._final: torch.Tensor | None = None
        self._inpainting = Inpainting(pipe)
        self.seconds = 0.0  # spent in the loop
        self.refusal = why_per_step(pipe, arguments)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Listen to `scheduler.step` and move the progress bar for the length of a block."""
        if self.refusal:
            yield
            return
        scheduler = self._pipe.scheduler
        self._real_step = scheduler.step

        @functools.wraps(self._real_step)  # pipelines read its signature to decide what to pass
        def step(*args: Any, **kwargs: Any) -> Any:
            return self._step(*args, **kwargs)

        scheduler.step = step
        real_bar = self._pipe.progress_bar

        def progress_bar(iterable: Any = None, total: int | None = None) -> Any:
            bar = real_bar(iterable, total)
            if iterable is not None:
                return bar
            self._bar = _Bar(bar)
            return self._bar

        self._pipe.progress_bar = progress_bar
        try:
            with self._inpainting.installed():
                yield
        finally:
            scheduler.__dict__.pop("step", None)
            self._pipe.__dict__.pop("progress_bar", None)
            if self._final is not None and hasattr(self._pipe, "_interrupt"):
                self._pipe._interrupt = False

    def _step(self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, **arguments: Any) -> Any:
        if self._final is None and not self.refusal:
            self.refusal = self._take_over(model_output, timestep, sample, arguments)
        if self._final is None:
            return self._real_step(model_output, timestep, sample, **arguments)
        if not arguments.get("return_dict", True):
            # LCM's second is the image that it predicts: after the last call the same as the first, and unused before.
            return (self._final, self._final)
        from diffusers.schedulers.scheduling_utils import SchedulerOutput

        return SchedulerOutput(prev_sample=self._final)

    def _take_over(
        self, model_output: torch.Tensor, timestep: Any, latents: torch.Tensor, arguments: Mapping[str, Any]
    ) -> str:
        """Run the loop and keep its result; else say what the pipeline does that the loop does not."""
        first = self._denoiser.first_call
        if first is None:
            return "step was called before the denoiser"
        plan = self._denoiser.plan
        timesteps = _timesteps_from(self._pipe.scheduler, timestep, len(plan))
        if timesteps is None:
            return f"{len(plan)} calls from timestep {float(timestep):g} are no part of the scheduler's table"
        with self._unheard_step():
            table = _table(self._pipe.scheduler, timesteps, arguments)
            known = self._inpainting.known(timesteps, arguments) if self._inpainting.pastes else None
        sampler = type(self._pipe.scheduler).__name__
        if isinstance(table, NoTable):
            return f"{sampler}: {table.reason}"
        if isinstance(known, NoTable):
            return f"{sampler}: {known.reason}"
        if known is not None and not table.takes_edited_samples:
            return f"{sampler}: it goes on from samples that nothing was pasted into"
        guidance = _guidance_of(self._pipe, self._arguments, first.prediction, latents)
        if guidance is None or not _agree(guidance(first.prediction), model_output):
            return "the pipeline combines predictions in a way of its own"
        if not _agree(first.session.latents_like(latents), _repeated(latents * table.input_scales[0], guidance.copies)):
            return "the denoiser is not given the scaled latents"
        started = time.perf_counter()
        with self._denoiser.own_forward():
            self._final = denoise(
                first.session,
                plan,
                table,
                guidance,
                latents=latents,
                timesteps=timesteps,
                generator=arguments.get("generator"),
                on_step=lambda done: self._bar.move_to(done / len(plan)) if self._bar is not None else None,
                is_stopped=lambda: bool(getattr(self._pipe, "_interrupt", False)),  # from another thread
                known=known,
            )
        self._inpainting.finish(self._final)
        self.seconds = time.perf_counter() - started
        self._denoiser.finish()
        if hasattr(self._pipe, "_interrupt"):
            self._pipe._interrupt = True  # leaves out the pipeline's remaining iterations
        return ""

    @contextmanager
    def _unheard_step(self) -> Iterator[None]:
        """The scheduler as it was before it was listened to."""
        scheduler = self._pipe.scheduler
        listening = scheduler.__dict__.pop("step")
        try:
            yield
        finally:
            scheduler.step = listening


_tables: OrderedDict[str, SamplerTable | NoTable] = OrderedDict()


def _table(scheduler: Any, timesteps: list[torch.Tensor], arguments: Mapping[str, Any]) -> SamplerTable | NoTable:
    key = state_key(scheduler, timesteps, arguments)
    if key not in _tables:
        _tables[key] = probe(scheduler, timesteps, arguments)
        if len(_tables) > _TABLES:
            _tables.popitem(last=False)
    _tables.move_to_end(key)
    return _tables[key]


class _Bar:
    """A progress bar that the loop moves; when it has, what the pipeline adds for its empty iterations is ignored."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._moved = False

    def __enter__(self) -> "_Bar":
        self._bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._bar.__exit__(*error)

    def update(self, steps: int = 1) -> None:
        if not self._moved:
            self._bar.update(steps)

    def move_to(self, share: float) -> None:
        self._moved = True
        self._bar.update(round(share * self._bar.total) - self._bar.n)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bar, name)


def why_per_step(pipe: Any, arguments: Mapping[str, Any]) -> str:
    """Why a call with these arguments does not run the whole loop, as far as is known before it; "" if it may."""
    given = {**arguments, **arguments.get("kwargs", {})}  # where most pipelines look for the deprecated `callback`
    for name in ("callback_on_step_end", "callback"):
        if given.get(name) is not None:
            return f"{name} wants Python between the steps"
    name = (getattr(pipe, "_plain_class", None) or type(pipe)).__name__
    if name not in family_of(type(denoiser_of(pipe)).__name__).straight:
        return f"{name} may do more between two steps than the loop knows"
    return ""


def _timesteps_from(scheduler: Any, first: Any, calls: int) -> list[torch.Tensor] | None:
    """The timesteps of `calls` calls that begin with `first`: the end of the scheduler's, its beginning, or a part.

    Where a part begins the pipeline has told the scheduler; a search could find another call of the same timestep.
    """
    table = scheduler.timesteps
    for begin in (len(table) - calls, 0, getattr(scheduler, "begin_index", None)):
        if begin is not None and 0 <= begin <= len(table) - calls and bool(table[begin] == first):
            return list(table[begin : begin + calls])
    return None


def _guidance_of(
    pipe: Any, arguments: Mapping[str, Any], prediction: torch.Tensor, latents: torch.Tensor
) -> Guidance | None:
    copies, rest = divmod(len(prediction), len(latents))
    if rest or copies > 3 or prediction.shape[1:] != latents.shape[1:]:
        return None
    if copies == 1:
        return Guidance(scale=None)
    scale = _guidance_scale(pipe, arguments)
    if copies == 3:
        return Guidance(scale=scale, image_scale=getattr(pipe, "image_guidance_scale", 0.0))
    return Guidance(scale=scale, rescale=getattr(pipe, "guidance_rescale", 0.0))


def _guidance_scale(pipe: Any, arguments: Mapping[str, Any]) -> Any:
    """What the pipeline says now; an upscaler has it as an argument only."""
    if hasattr(pipe, "guidance_scale"):
        return pipe.guidance_scale
    default = inspect.signature(type(pipe).__call__).parameters["guidance_scale"].default
    return arguments.get("guidance_scale", default)


def _repeated(latents: torch.Tensor, copies: int) -> torch.Tensor:
    return torch.cat([latents] * copies)


def _agree(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    if ours.shape != theirs.shape:
        return False
    difference = (ours.float() - theirs.float()).norm()
    return bool(difference <= _ROUNDING[theirs.dtype] * theirs.float().norm())


@contextmanager
def recorded(pipe: Any, denoiser: CachedDenoiser, others: Sequence[LiveComponent], loop: WholeLoop) -> Iterator[None]:
    """Leave a `Run` about the block in `pipe.last_run`."""
    components = (denoiser, *others)
    denoiser.plan = Plan(variants=())  # for calls that leave nothing to denoise
    before = {component.part: component.seconds for component in components}
    engines, started = denoiser.engine_seconds, time.perf_counter()
    yield
    seconds = {component.part: component.seconds - before[component.part] for component in components}
    seconds |= {"loop": loop.seconds, "engines": denoiser.engine_seconds - engines}
    pipe.last_run = Run(
        way="per step" if loop.refusal else "whole loop",
        reason=loop.refusal,
        plan=denoiser.plan,
        seconds={**seconds, "total": time.perf_counter() - started},
    )
