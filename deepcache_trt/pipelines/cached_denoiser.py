"""The per-step way in: a pipeline runs its own loop, and each call of its denoiser goes to an engine.

A generation begins when the scheduler has got a new table of timesteps, so calls in a row, changed parameters,
strengths and sizes all start from a fresh plan and empty taps. Where a pipeline denoises several times by one table, in
its method `backward_loop`, each time is a generation.
"""

import functools
import inspect
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from deepcache_trt.builder.component import DENOISERS, Component
from deepcache_trt.builder.pieces import variants_of
from deepcache_trt.builder.shapes import check_sizes
from deepcache_trt.engines.backends import DTYPES
from deepcache_trt.errors import UnsupportedError
from deepcache_trt.foreign import Model, Pipeline
from deepcache_trt.models.architecture import Architecture
from deepcache_trt.models.calls import check_given, check_made
from deepcache_trt.models.fresh import dtype_of
from deepcache_trt.models.registry import COVERED_DENOISERS, architecture_of
from deepcache_trt.pipelines.engine_options import EngineOptions
from deepcache_trt.pipelines.live_component import LiveComponent
from deepcache_trt.progress import Progress
from deepcache_trt.runtime.generation import Generation, Resting
from deepcache_trt.runtime.plan import FEW_CALLS, FULL, Plan, gain_in_words
from deepcache_trt.runtime.policies import Policy
from deepcache_trt.runtime.session import Session

_log = logging.getLogger(__name__)


class CachedDenoiser(LiveComponent):
    """A pipeline's denoiser on engines, one for each variant of a policy, in the order of its plan."""

    def __init__(
        self,
        pipe: Pipeline,
        policy: Policy,
        options: EngineOptions,
        *,
        name: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Check the policy and the model; nothing is built before the first call; arguments as of `LiveComponent`.

        Raises:
            UnsupportedError: the pipeline's denoiser is not covered.
            UnknownNameError: the policy wants a tap that the model lacks.
        """
        super().__init__(pipe, part_of_denoiser(pipe), options, name=name, progress=progress)
        self.generation: Generation | None = None  # the last one of this call of the pipeline
        self._few_calls: set[Plan] = set()  # the log has told of these
        self._backward_loop: Callable[..., Any] | None = None  # what stands for the pipeline's own
        self._backward_calls: int | None = None  # how many the `backward_loop` has that runs now
        self.policy = policy
        self.check(policy)

    def check(self, policy: Policy) -> None:
        """Raise unless the model has the taps that the policy wants, and a precision that engines have."""
        variants_of(self._architecture_now(), policy, self.name)

    def check_size(self, height: Any, width: Any) -> None:
        """Raise ShapeError for pixels that the denoiser cannot take, before a prompt is encoded in vain."""
        factor = getattr(self._pipe, "vae_scale_factor", None)
        pixels = {"height": height, "width": width}
        latents = {axis: size // factor for axis, size in pixels.items() if factor and isinstance(size, int)}
        architecture = self._architecture_now()
        check_sizes(architecture, latents)

    @property
    def own_size(self) -> tuple[int, int]:
        """Height and width in pixels that the model has been made for."""
        return self._architecture_now().own_size

    @property
    def plan(self) -> Plan:
        """Of the last generation; without calls where there is none."""
        return Plan(variants=()) if self.generation is None else self.generation.taken

    def install(self, *, everywhere: bool = False) -> None:
        """Send the calls of the denoiser here until `remove`."""
        if self._patch.model is not self.model:
            self.generation = None
        super().install(everywhere=everywhere)
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
            self._backward_calls = len(timesteps)
            self._end()
            try:
                return backward_loop(*args, **kwargs)
            finally:
                self._backward_calls = None
                self._end()

        return loop

    def _end(self) -> None:
        if self.generation is not None:
            self.generation = replace(self.generation, is_over=True)

    def take_turns(self, resting: "Resting | None") -> "Resting | None":
        """Go on with a generation that rested, None: begin one at the next call; returns the one that now rests.

        Where one step is several calls, as of each prompt by itself, those that belong together are a generation.
        """
        now, self.generation = self.generation, None
        # Laid aside before the other one takes its place in the buffers.
        rests = None if now is None else Resting(now, None if now.is_interrupted else now.session.lay_aside())
        if resting is not None:
            self.generation = resting.generation
            if resting.kept is not None:
                number = resting.generation.session.take_up(resting.kept)
                self.generation = replace(resting.generation, number=number)
        return rests

    def check_made(self, latents: torch.Tensor | None = None) -> None:
        """Raise BackendError where what was predicted last, or the latents that came of it, are NaN or zero."""
        outputs = {} if self.generation is None else self.generation.outputs
        check_made(self.title, {**outputs, **({} if latents is None else {"latents": latents})})

    def finish(self) -> None:
        """The rest of the generation has been run by the loop: answer what is still asked with the last prediction."""
        assert self.generation is not None
        decided = self.generation.session.decisions[1:]  # but for the first call, which the loop did not run
        decisions = (*self.generation.decisions, *decided)
        self.generation = replace(self.generation, decisions=decisions, is_finished=True)

    def promise(self) -> str:
        """The variant of the next call, for a model that computes nothing but what that call reads."""
        going_on = self._going_on()
        if going_on is None or going_on.session is not self.session or going_on.is_interrupted:
            return FULL
        promised = going_on.planned or FULL  # what a rule decides is known only when the denoiser is called
        self.generation = replace(going_on, promised=promised)
        return promised

    def _going_on(self) -> Generation | None:
        """The generation that a call now belongs to; None where it begins one."""
        last = self.generation
        if last is None or last.is_over or self._pipe.scheduler.timesteps is not last.timesteps:
            return None
        if last.thread != threading.get_ident() and last.calls < len(last.plan):
            raise UnsupportedError(
                f"{self.part} is called in a thread while another is in the middle of an image with it, and a cache "
                f"holds one image; draw with pipelines, which wait for each other, or call disable() of the helper"
            )
        return last

    def _run(self, model: Model, arguments: Mapping[str, Any]) -> Mapping[str, torch.Tensor]:
        generation = self._going_on()
        if generation is not None and generation.is_finished:
            return generation.outputs
        if generation is None:
            self._is_checked = False
        tensors, sizes = self._tensors(model, arguments)
        if generation is None:
            check_given(self.part, tensors)
        return self._on_session(model, tensors, sizes, lambda session: self._step(session, generation, tensors, sizes))

    def _step(
        self,
        session: Session,
        generation: Generation | None,
        tensors: Mapping[str, torch.Tensor],
        sizes: Mapping[str, int],
    ) -> Mapping[str, torch.Tensor]:
        """The next call of a generation, or the first of a new one."""
        if generation is None:
            generation = self._new_generation(session)
        elif generation.session is not session or generation.is_interrupted:
            # Another pipeline may have drawn on these engines.
            number = session.begin(forecast=generation.plan.forecast, rule=generation.plan.rule)
            generation = replace(generation, session=session, number=number)
        rule, planned = generation.plan.rule, generation.planned
        reusing = rule.cached if rule is not None and planned is None else planned
        variant = planned if reusing is not None and session.holds(reusing, sizes) else FULL
        self._check_promise(generation, variant, sizes)
        outputs = session.run(variant, tensors, sizes)
        self.generation = replace(
            generation,
            calls=generation.calls + 1,
            decisions=(*generation.decisions, *session.decisions[-1:]),
            outputs=outputs,
            sizes=sizes,
            promised=FULL,
        )
        return outputs

    def _new_generation(self, session: Session) -> Generation:
        timesteps = self._pipe.scheduler.timesteps
        # Pipelines that shorten the table, as image to image does, keep the number of calls here.
        calls = self._backward_calls or getattr(self._pipe, "_num_timesteps", None) or len(timesteps)
        plan = self.policy.plan(min(calls, len(timesteps)))
        self._tell_of_few_calls(plan)
        wanted = plan.variants if plan.rule is None else tuple(session.variants)
        number = session.begin(forecast=plan.forecast, variants=wanted, rule=plan.rule)
        return Generation(timesteps=timesteps, plan=plan, session=session, number=number)

    def _check_promise(self, generation: Generation, variant: str | None, sizes: Mapping[str, int]) -> None:
        if variant == FULL and generation.promised != FULL:
            raise UnsupportedError(
                f"{self.part} is called with other sizes ({sizes}) in the middle of an image, where its ControlNet was "
                f"called with the same; change both in the callback, or set cache_interval=1"
            )

    def _architecture_now(self) -> Architecture:
        part_of_denoiser(self._pipe)  # raises where another has been put there that is not covered
        dtype = dtype_of(self.model)
        if dtype not in DTYPES:
            raise UnsupportedError(
                f"the weights of {self.part} are {dtype}, and engines have {', '.join(DTYPES)}; "
                f"call pipe.to(torch.float32), or pipe.disable_cache() for this image"
            )
        return architecture_of(self.model, dtype=dtype)

    def _component_of(self, model: Model) -> Component:
        component = self._material.component(model, self._form)
        if self.options.precision is None:
            return component
        from deepcache_trt.pipelines.calibrating.on_torch import quantized_component  # made of a denoiser like this

        return quantized_component(self._pipe, component, self.policy, self.options)

    def _tell_of_few_calls(self, plan: Plan) -> None:
        if len(plan) <= FEW_CALLS and plan.rule is None and plan not in self._few_calls:
            _log.info("%s %s: %s", self.name, self.part, gain_in_words(plan))
            self._few_calls.add(plan)


def denoiser_of(pipe: Pipeline) -> Any:
    """The model that a pipeline calls at every step; raises as `part_of_denoiser`."""
    return getattr(pipe, part_of_denoiser(pipe))


def part_of_denoiser(pipe: Pipeline) -> str:
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
            if hasattr(model, "_orig_mod"):
                covered = f"engines take the place of what torch.compile makes; set pipe.{part} = pipe.{part}._orig_mod"
            raise UnsupportedError(f"{kind}, the {part} of {type(pipe).__name__}, is not covered; {covered}")
    raise UnsupportedError(f"{type(pipe).__name__} has no {' and no '.join(DENOISERS)} that could be cached; {covered}")
