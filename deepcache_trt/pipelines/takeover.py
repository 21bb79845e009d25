"""May the loop take a pipeline's denoising over? A question, asked after one call of its denoiser and its scheduler.

What the pipeline made of that first call is compared with what the loop would make of it: its guidance with the
model's output, the scaled latents with what the denoiser was given. Only where they agree is the answer `Ready`.
"""

import inspect
import itertools
import operator
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from deepcache_trt.foreign import Pipeline, Scheduler
from deepcache_trt.models.definitions.pipelines import plain_class
from deepcache_trt.models.registry import family_of
from deepcache_trt.pipelines.cached_denoiser import part_of_denoiser
from deepcache_trt.pipelines.inpainting import Inpainting
from deepcache_trt.runtime.generation import Generation
from deepcache_trt.runtime.guidance import Guidance
from deepcache_trt.runtime.loop_state import Known
from deepcache_trt.runtime.plan import Plan
from deepcache_trt.runtime.sampler.probe import probe, state_key
from deepcache_trt.runtime.sampler.table import NoTable, SamplerTable
from deepcache_trt.runtime.session import Session
from deepcache_trt.tensors import channels_of

# How far the pipeline's own arithmetic may be from ours, by the dtype of the latents.
_ROUNDING = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}

_TABLES_KEPT = 16

_OWN_GUIDANCE = "the pipeline combines predictions in a way of its own"


@dataclass(frozen=True, kw_only=True, eq=False)
class Ready:
    """Everything that `denoise` needs for the rest of a generation."""

    session: Session
    plan: Plan
    table: SamplerTable
    guidance: Guidance
    timesteps: Sequence[torch.Tensor]
    known: Known | None


@dataclass(frozen=True)
class Refused:
    """What the pipeline does that the loop does not."""

    reason: str


def why_per_step(pipe: Pipeline, arguments: Mapping[str, Any]) -> str:
    """Why a call with these arguments does not run the whole loop, as far as is known before it; "" if it may."""
    given = {**arguments, **arguments.get("kwargs", {})}  # where most pipelines look for the deprecated `callback`
    for name in ("callback_on_step_end", "callback"):
        if given.get(name) is not None:
            return f"{name} wants Python between the steps"
    part = part_of_denoiser(pipe)
    denoiser = getattr(pipe, part)
    if denoiser._forward_hooks or denoiser._forward_pre_hooks:
        return f"there are hooks on the {part}, which want each of its calls"
    name = plain_class(pipe).__name__
    if name not in family_of(type(denoiser).__name__).straight:
        return f"{name} may do more between two steps than the loop knows"
    return ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """The pipeline's first call of its scheduler's `step`: what it handed over, and `arguments` by keyword."""

    output: torch.Tensor
    timestep: Any
    latents: torch.Tensor
    arguments: Mapping[str, Any]


def ask(
    pipe: Pipeline, call: Mapping[str, Any], generation: Generation | None, step: Step, inpainting: Inpainting
) -> Ready | Refused:
    """The question.

    Args:
        pipe: a pipeline whose scheduler has its own `step`.
        call: the arguments of the pipeline's call.
        generation: of its denoiser.
        step: which came after the denoiser's first call.
        inpainting: what the pipeline keeps of its image.
    """
    if generation is None or generation.calls != 1:
        return Refused("step was called before the denoiser")
    plan, sampler = generation.plan, type(pipe.scheduler).__name__
    timesteps = _timesteps_from(pipe.scheduler, step.timestep, len(plan))
    if timesteps is None:
        begin = f"{len(plan)} calls from timestep {float(step.timestep):g}"
        return Refused(f"{begin} are no part of the scheduler's table")
    table = _table(pipe.scheduler, timesteps, step.arguments)
    known = inpainting.known(timesteps, step.arguments) if inpainting.pastes else None
    if isinstance(table, NoTable):
        return Refused(f"{sampler}: {table.reason}")
    if isinstance(known, NoTable):
        return Refused(f"{sampler}: {known.reason}")
    if known is not None and not table.takes_edited_samples:
        return Refused(f"{sampler}: it goes on from samples that nothing was pasted into")
    ways = _ways_to_guide(pipe, call, generation.prediction, step.latents)
    if not ways:
        return Refused(_OWN_GUIDANCE)
    session = generation.session
    predicted = channels_of(generation.prediction, step.latents)
    scaled = torch.cat([step.latents * table.input_scales[0]] * ways[0].copies)
    compared = [(guidance(predicted), step.output) for guidance in ways]
    is_scaled, *agree = _agree([(channels_of(session.buffers["sample"], step.latents), scaled), *compared])
    guidance = next(itertools.compress(ways, agree), None)
    if guidance is None:
        return Refused(_OWN_GUIDANCE)
    if not is_scaled:
        return Refused("the denoiser is not given the scaled latents")
    return Ready(session=session, plan=plan, table=table, guidance=guidance, timesteps=timesteps, known=known)


_tables: OrderedDict[str, SamplerTable | NoTable] = OrderedDict()


def _table(
    scheduler: Scheduler, timesteps: Sequence[torch.Tensor], arguments: Mapping[str, Any]
) -> SamplerTable | NoTable:
    key = state_key(scheduler, timesteps, arguments)
    if key not in _tables:
        _tables[key] = probe(scheduler, timesteps, arguments)
        if len(_tables) > _TABLES_KEPT:
            _tables.popitem(last=False)
    _tables.move_to_end(key)
    return _tables[key]


def _timesteps_from(scheduler: Scheduler, first: Any, calls: int) -> list[torch.Tensor] | None:
    """The timesteps of `calls` calls that begin with `first`, on the CPU: the end, the beginning or a part of them all.

    Where a part begins the pipeline has told the scheduler; a search could find another call of the same timestep.
    """
    table, first = scheduler.timesteps.cpu(), torch.as_tensor(first).cpu()
    for begin in (len(table) - calls, 0, getattr(scheduler, "begin_index", None)):
        if begin is not None and 0 <= begin <= len(table) - calls and bool(table[begin] == first):
            return list(table[begin : begin + calls])
    return None


def _ways_to_guide(
    pipe: Pipeline, arguments: Mapping[str, Any], prediction: torch.Tensor, latents: torch.Tensor
) -> Sequence[Guidance]:
    """What the pipeline may have made of the prediction, by the shapes; all take as many copies of the latents."""
    copies, rest = divmod(len(prediction), len(latents))
    fits = prediction.ndim == latents.ndim and all(map(operator.ge, prediction.shape[1:], latents.shape[1:]))
    if rest or copies > 3 or not fits or prediction.shape[-2:] != latents.shape[-2:]:
        return []
    if copies == 1:
        plain = Guidance(scale=None)
        if len(latents) % 2:
            return [plain]
        return [plain, Guidance(scale=_guidance_scale(pipe, arguments), is_paired=True)]
    scale = _guidance_scale(pipe, arguments)
    if copies == 3:
        return [Guidance(scale=scale, image_scale=getattr(pipe, "image_guidance_scale", 0.0))]
    rescale, channels = getattr(pipe, "guidance_rescale", 0.0), getattr(pipe, "guided_channels", None)
    return [Guidance(scale=scale, rescale=rescale, channels=channels)]


def _guidance_scale(pipe: Pipeline, arguments: Mapping[str, Any]) -> Any:
    """What the pipeline says now; an upscaler has it as an argument only."""
    if hasattr(pipe, "guidance_scale"):
        return pipe.guidance_scale
    parameter = inspect.signature(type(pipe).__call__).parameters.get("guidance_scale")
    return arguments.get("guidance_scale", None if parameter is None else parameter.default)


def _agree(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> list[bool]:
    """Whether ours is theirs, but for rounding, for each pair; a GPU is waited for once."""
    same = [
        (ours.float() - theirs.float()).norm() <= _ROUNDING[theirs.dtype] * theirs.float().norm()
        if ours.shape == theirs.shape
        else theirs.new_zeros([], dtype=torch.bool)
        for ours, theirs in pairs
    ]
    agreed: list[bool] = torch.stack(same).tolist()
    return agreed
