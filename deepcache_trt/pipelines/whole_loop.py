"""The whole-loop way in: from its first `scheduler.step` on, a pipeline's denoising runs without the pipeline.

The first call of the denoiser has told us the conditioning, the first `step` the latents. Where `takeover` finds that
the loop would do what the pipeline does, the loop runs all further calls. The pipeline's remaining iterations are then
left out by its own `interrupt` flag; where it has none its denoiser answers with what it said last, and `step` with the
final latents. No `__call__` of diffusers is copied.
"""

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from deepcache_trt.errors import ArgumentError
from deepcache_trt.foreign import Pipeline
from deepcache_trt.pipelines.cached_denoiser import CachedDenoiser
from deepcache_trt.pipelines.inpainting import Inpainting
from deepcache_trt.pipelines.live_component import LiveComponent
from deepcache_trt.pipelines.takeover import Ready, Refused, Step, ask, why_per_step
from deepcache_trt.runtime.cuda_graph import Recorded
from deepcache_trt.runtime.decision import Decision
from deepcache_trt.runtime.loop import denoise
from deepcache_trt.runtime.plan import Plan
from deepcache_trt.runtime.policies import Fixed, Policy


@dataclass(frozen=True, kw_only=True)
class Run:
    """What happened in one call of a pipeline.

    Attributes:
        way: "whole loop" or "per step".
        reason: why it was not the whole loop; "" where it was.
        plan: the variant of each call of the denoiser, as it ran.
        policy: how the denoiser was cached.
        decisions: about each call, with their reasons, where the policy decides at run time.
        seconds: spent in the pipeline's calls of each component, in the "loop" after the denoiser's first call, in
            "total", and, of the denoiser's calls and the loop together, in its "engines". On a GPU they count what the
            host waited for, and steps that were recorded into CUDA graphs count as loop.
        runs: the seconds of each run of the denoiser's engines, in order, by engine, a variant or one segment; on a GPU
            without recorded ones.
        sizes: the axes of the denoiser's last call, as {"batch": 2, "height": 64, "width": 64, "sequence": 77}; none
            where it was not called.
        recorded: the CUDA graphs of the denoiser's last shape; None where there are none.
        opened: the components whose engines were opened in this call, and how often: for other weights, or for a shape
            that those that were open do not take.
    """

    way: str
    reason: str
    plan: Plan
    policy: Policy
    decisions: tuple[Decision, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    runs: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    recorded: Recorded | None = None
    opened: Mapping[str, int] = field(default_factory=dict)

    def fixed(self) -> Fixed:
        """The calls as they ran, as a policy for generations of just as many: for a plan file."""
        return Fixed(of=self.policy, calls=self.plan.variants)


class CachedPipeline(Protocol):
    """A pipeline that tells what happened in its last call."""

    last_run: Run | None


class WholeLoop:
    """Takes over a pipeline's loop for one call, where that makes the same image."""

    def __init__(self, pipe: Pipeline, denoiser: CachedDenoiser, arguments: Mapping[str, Any]) -> None:
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

        vars(scheduler)["step"] = step
        real_bar = self._pipe.progress_bar

        def progress_bar(iterable: Any = None, total: int | None = None) -> Any:
            bar = real_bar(iterable, total)
            if iterable is not None:
                return bar
            self._bar = _Bar(bar)
            return self._bar

        vars(self._pipe)["progress_bar"] = progress_bar
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
            step = Step(output=model_output, timestep=timestep, latents=sample, arguments=arguments)
            with self._unheard_step():
                answer = ask(self._pipe, self._arguments, self._denoiser.generation, step, self._inpainting)
            if isinstance(answer, Refused):
                self.refusal = answer.reason
            else:
                self._final = self._take_over(answer, step)
        if self._final is None:
            return self._own_step(model_output, timestep, sample, arguments)
        if not arguments.get("return_dict", True):
            # LCM's second is the image that it predicts: after the last call the same as the first, and unused before.
            return (self._final, self._final)
        from diffusers.schedulers.scheduling_utils import SchedulerOutput

        return SchedulerOutput(prev_sample=self._final)

    def _own_step(
        self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, arguments: Mapping[str, Any]
    ) -> Any:
        try:
            return self._real_step(model_output, timestep, sample, **arguments)
        except IndexError as error:  # DDIM in as many steps as there are timesteps begins past the last of them
            raise ArgumentError(
                f"num_inference_steps={len(self._pipe.scheduler.timesteps)} is too much for "
                f"{type(self._pipe.scheduler).__name__}, which ends before timestep {float(timestep):g}; ask for fewer"
            ) from error

    def _take_over(self, ready: Ready, step: Step) -> torch.Tensor:
        """Run the loop and leave the pipeline nothing to do; returns the final latents."""
        calls, bar, pipe = len(ready.plan), self._bar, self._pipe
        started = time.perf_counter()
        with self._denoiser.own_forward():
            final = denoise(
                ready.session,
                ready.plan,
                ready.table,
                ready.guidance,
                latents=step.latents,
                timesteps=ready.timesteps,
                generator=step.arguments.get("generator"),
                on_step=lambda done: bar.move_to(done / calls) if bar is not None else None,
                is_stopped=lambda: bool(getattr(pipe, "_interrupt", False)),  # another thread may set it
                known=ready.known,
            )
        self._denoiser.check_made(final)
        self._inpainting.finish(final)
        self.seconds = time.perf_counter() - started
        self._denoiser.finish()
        if hasattr(pipe, "_interrupt"):
            pipe._interrupt = True  # leaves out the pipeline's remaining iterations
        return final

    @contextmanager
    def _unheard_step(self) -> Iterator[None]:
        """The scheduler as it was before it was listened to."""
        scheduler = self._pipe.scheduler
        listening = scheduler.__dict__.pop("step")
        try:
            yield
        finally:
            vars(scheduler)["step"] = listening


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


@contextmanager
def recorded(
    pipe: CachedPipeline, denoiser: CachedDenoiser, others: Sequence[LiveComponent], loop: WholeLoop
) -> Iterator[None]:
    """Leave a `Run` about the block in `pipe.last_run`."""
    components = (denoiser, *others)
    denoiser.generation = None  # there may be nothing to denoise
    before = {component.part: component.seconds for component in components}
    opened_before = {component.part: component.engines.opened_count for component in components}
    engines, started, log = denoiser.engines.seconds, time.perf_counter(), denoiser.engines.mark()
    yield
    seconds = {component.part: component.seconds - before[component.part] for component in components}
    opened = {each.part: each.engines.opened_count - opened_before[each.part] for each in components}
    seconds |= {"loop": loop.seconds, "engines": denoiser.engines.seconds - engines}
    generation, session = denoiser.generation, denoiser.session
    pipe.last_run = Run(
        way="per step" if loop.refusal else "whole loop",
        reason=loop.refusal,
        plan=denoiser.plan,
        policy=denoiser.policy,
        decisions=() if generation is None else generation.decisions,
        seconds={**seconds, "total": time.perf_counter() - started},
        runs=denoiser.engines.runs_since(log),
        sizes={} if generation is None else generation.sizes,
        recorded=None if session is None else session.recorded,
        opened={part: count for part, count in opened.items() if count},
    )
