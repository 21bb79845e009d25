"""The denoising loop: everything of a generation between its first model output and its last latents.

A plan says which variant runs at each call, a sampler table what each call does to the latents; no scheduler and no
pipeline code runs in between.

    x[i] → scale → engine → guidance → ε[i] → table → x[i+1]

Each arrow reads and writes tensors that stay where they are. So the same few units of work, an engine's step and
`LoopState.update`, serve every plan, number of steps, scheduler and prompt; on a GPU they are recorded once for each
shape and launched together.
"""

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING

from deepcache_trt.runtime.device import on_device
from deepcache_trt.runtime.guidance import Guidance
from deepcache_trt.runtime.loop_state import WINDOW, Known, LoopState, Rings
from deepcache_trt.runtime.plan import Plan
from deepcache_trt.runtime.sampler.table import SamplerTable
from deepcache_trt.runtime.session import Session
from deepcache_trt.runtime.switch import Step, Unit

if TYPE_CHECKING:
    import torch

# Slots that most schedulers share. One that remembers more, as SA does, or that draws no noise, has tensors and so an
# update of its own; engines' steps are shared by all.
_RINGS = Rings(samples=4, outputs=5, noise=1)

# After how many calls a GPU says how far it is, which is one more copy for it, and how long it is left alone between
# two questions.
_TELL_EVERY = 5
_POLL_SECONDS = 0.005


def denoise(
    session: Session,
    plan: Plan,
    table: SamplerTable,
    guidance: Guidance,
    *,
    latents: "torch.Tensor",
    timesteps: Sequence["torch.Tensor"],
    generator: "torch.Generator | list[torch.Generator] | None",
    on_step: Callable[[int], None],
    is_stopped: Callable[[], bool] = lambda: False,
    known: Known | None = None,
) -> "torch.Tensor":
    """Run what is left of a generation after the model's first call, on the device of the latents.

    Args:
        session: its buffers hold the inputs of that first call, its prediction and its taps.
        plan: the variant of each of the n calls.
        table: of the scheduler, for the same n calls.
        guidance: see `Guidance`.
        latents: x[0], [B, C, …].
        timesteps: [n]; what the model is told at each call.
        generator: where the scheduler would draw its noise from.
        on_step: told how many calls are done.
        is_stopped: asked whether to leave it at that; a graph that was launched runs to its end.
        known: what inpainting keeps of an image; the table must take edited samples.

    Returns:
        x[n], [B, C, …], in the dtype of `latents`; where it was stopped, x after the calls that were done.
    """
    assert len(plan) == len(table) == len(timesteps)
    assert known is None or table.takes_edited_samples
    import torch

    with on_device(latents.device):
        times = torch.stack(list(timesteps)).double().cpu().numpy()
        state = _state_for(session, table, guidance, known, latents)
        state.begin(latents, guidance, known)
        for start in range(0, len(plan), WINDOW):
            calls = range(start, min(start + WINDOW, len(plan)))
            noise = [table.draw(call, latents, generator) for call in calls]
            state.load(start, plan, table, times, noise, known)
            run = _run if plan.rule is None else _decide
            reached = run(session, plan, state, calls, on_step, is_stopped)
            if is_stopped():
                break
        return state.sample(reached).to(latents.dtype).clone()


def _run(
    session: Session,
    plan: Plan,
    state: LoopState,
    calls: range,
    on_step: Callable[[int], None],
    is_stopped: Callable[[], bool],
) -> int:
    """Run the calls of a window, tell how many are done as often as there is news, and return it."""
    units = [*_after(state, 0, len(calls))]
    for done, call in enumerate(calls[1:], 1):
        units += [*session.units(plan.variants[call]), *_after(state, done, len(calls))]
    if calls.stop < len(plan):
        units += session.units(plan.variants[calls.stop])
    graphs = session.shape.graphs
    if graphs is None or not graphs.launch(units):
        reached = calls.start
        for unit in units:
            unit()
            if unit == state.update:
                reached += 1
                on_step(reached)
                if is_stopped():
                    return reached
        session.record(units)
        return reached
    return _wait(state, calls, on_step)


def _after(state: LoopState, call: int, calls: int) -> Iterator[Unit]:
    """What follows a call of the model, one of so many in a window."""
    yield state.update
    if state.is_on_gpu and ((call + 1) % _TELL_EVERY == 0 or call + 1 == calls):
        yield state.tell


def _wait(state: LoopState, calls: range, on_step: Callable[[int], None]) -> int:
    """Tell how far the GPU is with a window that was launched, until it is done."""
    import torch

    done = torch.cuda.Event(blocking=True)
    done.record()
    last_told = len(calls) - _TELL_EVERY
    while int(state.reached) < last_told and not done.query():
        on_step(calls.start + int(state.reached))
        time.sleep(_POLL_SECONDS)
    done.synchronize()
    on_step(calls.start + int(state.reached))
    return calls.start + int(state.reached)


def _decide(
    session: Session,
    plan: Plan,
    state: LoopState,
    calls: range,
    on_step: Callable[[int], None],
    is_stopped: Callable[[], bool],
) -> int:
    """As `_run`, where a rule decides what each call runs; a GPU follows it by itself if it can."""
    graphs = session.shape.graphs
    if graphs is not None and graphs.launch(_deciding(session, plan, state, calls)):
        reached = _wait(state, calls, on_step)
        session.told(min(calls.stop + 1, len(plan)) - calls.start - 1)
        return reached
    for call in calls:
        session.execute([state.update])
        on_step(call + 1)
        if is_stopped():
            return call + 1
        if call + 1 < len(plan):
            session.call(session.decide())
    if state.is_on_gpu:
        session.execute([state.tell])  # a graph of the whole needs it recorded
    return calls.stop


def _deciding(session: Session, plan: Plan, state: LoopState, calls: range) -> list[Step]:
    """The calls of a window, decided where they run."""
    steps: list[Step] = []
    deciding = session.deciding()
    for done, call in enumerate(calls):
        steps += _after(state, done, len(calls))
        if call + 1 < len(plan):
            steps += deciding
    return steps


def _state_for(
    session: Session, table: SamplerTable, guidance: Guidance, known: Known | None, latents: "torch.Tensor"
) -> LoopState:
    """The tensors for this shape, made once; larger rings where a scheduler remembers more."""
    import torch

    needed = [weights.shape[1] for weights in (table.sample_weights, table.output_weights, table.noise_weights)]
    rings = Rings(*(max(least, slots) if slots else 0 for least, slots in zip(_RINGS, needed, strict=True)))
    scale = guidance.scale.shape if isinstance(guidance.scale, torch.Tensor) else guidance.scale is None
    parts = guidance.copies, guidance.is_paired, guidance.channels, scale, bool(guidance.rescale)
    key = latents.shape, parts, known is None, rings, session.forecast
    states: dict[Hashable, LoopState] = session.shape.loops
    if key not in states:
        states[key] = LoopState(session, latents, guidance, known, rings)
    return states[key]
