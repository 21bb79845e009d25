"""The denoising loop: everything of a generation between its first model output and its last latents.

A plan says which variant runs at each call, a sampler table what each call does to the latents; no scheduler and no
pipeline code runs in between.

    x[i] → scale → engine → guidance → ε[i] → table → x[i+1]

Each arrow reads and writes tensors that stay where they are, and finds its coefficients by a counter that lies beside
them. So the same few units of work, an engine's step and `Steps.update`, serve every plan, number of steps, scheduler
and prompt; on a GPU they are recorded once for each shape and launched together.
"""

import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deepcache_trt.runtime.cuda_graph import Unit
from deepcache_trt.runtime.guidance import Guidance, guided
from deepcache_trt.runtime.plan import Plan
from deepcache_trt.runtime.sampler_table import SamplerTable
from deepcache_trt.runtime.session import Session

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

# Calls whose coefficients and noise lie ready at a time.
WINDOW = 64

# Slots for samples, outputs and noise that most schedulers share. One that remembers more, as SA does, or that draws
# no noise, has tensors and so an update of its own; engines' steps are shared by all.
_RINGS = (4, 5, 1)

# How long a GPU is left alone before it is asked again how far it is; a step of a large model takes tens of them.
_POLL_SECONDS = 0.001


@dataclass(frozen=True, kw_only=True)
class Known:
    """The part of an image that inpainting keeps: pasted back after every call, as noisy as the rest is then.

        x[i+1] ← mask · x[i+1] + (1 - mask) · (scales[i, 0] · latents + scales[i, 1] · noise)

    Attributes:
        mask: [B, 1 or C, H, W], 1 where the image is made, 0 where it is kept.
        latents: [B, C, H, W], of the image.
        noise: [B, C, H, W].
        scales: [n, 2] float64.
    """

    mask: "torch.Tensor"
    latents: "torch.Tensor"
    noise: "torch.Tensor"
    scales: "NDArray[np.float64]"


class Steps:
    """The tensors that a loop keeps beside the engines', and the update that each call ends with.

    The history [slots, B·C·…] float32 has the samples, outputs and noise of the last few calls one below the other,
    each in its ring; the next sample is one product of a row of weights with it.
    """

    def __init__(
        self, session: Session, latents: "torch.Tensor", guidance: Guidance, known: Known | None, rings: tuple[int, ...]
    ) -> None:
        import torch

        def tensor(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=latents.device)

        self._rings = rings
        self._shape = latents.shape
        self._prediction, self._timestep = session.prediction, session.buffers["timestep"]
        self._input = session.latents_like(latents).unflatten(0, (guidance.copies, -1))
        self._rates = None if session.forecast is None else session.forecast.rates
        self._scale = None if guidance.scale is None else _constant(guidance.scale, latents.device)
        self._rescale = _constant(guidance.rescale, latents.device) if guidance.rescale else None
        self._image_scale = None if guidance.image_scale is None else _constant(guidance.image_scale, latents.device)
        self._known = None if known is None else tensor(3, latents.numel())  # mask, latents, noise
        self._history = tensor(sum(rings), latents.numel())
        self._weights = tensor(WINDOW, sum(rings))
        self._slots = tensor(WINDOW, 3, dtype=torch.int64)  # of ε[i], z[i] and x[i+1]
        # To call i+1: scale, timestep, and the rates of its forecast. To x[i+1]: of what is known, latents and noise.
        self._given = tensor(WINDOW, 6)
        self._noise = tensor(WINDOW if rings[2] else 0, latents.numel())
        self._call = tensor(1, dtype=torch.int64)  # within the window
        self._advance = _fused(_advance, latents.device)
        self.reached = torch.zeros(1, dtype=torch.int64, pin_memory=latents.is_cuda)  # `_call`, for the host to see

    def begin(self, first: "torch.Tensor", guidance: Guidance, known: Known | None) -> None:
        """Start from x[0] `first`, [B, C, …]; a slot that no call has filled must hold finite numbers."""
        import torch

        self._history.zero_()
        self._history[0].view(self._shape).copy_(first)
        ours = self._scale, self._rescale, self._image_scale
        for constant, number in zip(ours, (guidance.scale, guidance.rescale, guidance.image_scale), strict=True):
            if constant is not None:
                constant.copy_(torch.as_tensor(number))
        if self._known is not None and known is not None:
            for ours_of_it, tensor in zip(self._known, (known.mask, known.latents, known.noise), strict=True):
                ours_of_it.view(self._shape).copy_(tensor)

    def load(
        self,
        start: int,
        plan: Plan,
        table: SamplerTable,
        timesteps: Sequence["torch.Tensor"],
        noise: Sequence["torch.Tensor | None"],
        known: Known | None,
    ) -> None:
        """Fill the window with the calls from `start` on, as many as there is noise for."""
        import torch

        count, (x, e, z) = len(noise), self._rings
        calls = np.arange(start, start + count)
        following = np.minimum(calls + 1, len(plan) - 1)  # what the last call gives is not read
        times = torch.stack(list(timesteps)).double().cpu().numpy()
        of_known = np.zeros([count, 2]) if known is None else known.scales[calls]
        given = np.column_stack([table.input_scales, times, plan.forecast_rates])[following]
        given = np.column_stack([given, of_known])
        slots = np.column_stack([x + calls % e, x + e + calls % max(z, 1), (calls + 1) % x])
        weights = table.in_rings(*self._rings)[calls]
        for ours, values in ((self._weights, weights), (self._slots, slots), (self._given, given)):
            ours[:count].copy_(torch.from_numpy(values))
        for row, drawn in enumerate(noise):
            if drawn is not None and z:
                self._noise[row].view(self._shape).copy_(drawn)
        self._call.zero_()
        self.reached.zero_()

    def update(self) -> None:
        """After the model's call i: guidance, x[i+1], and what the model is given at call i+1."""
        guidance = self._prediction, self._scale, self._rescale, self._image_scale
        coefficients = self._weights, self._slots, self._given, self._noise
        given = self._advance(*guidance, self._known, self._history, *coefficients, self._call, self._input)
        self._timestep.copy_(given[1])
        if self._rates is not None:
            self._rates.copy_(given[2:4])
        self.reached.copy_(self._call, non_blocking=True)

    def sample(self, call: int) -> "torch.Tensor":
        """x[call] [B, C, …] float32, if it is the last that there is."""
        return self._history[call % self._rings[0]].view(self._shape)


def _advance(
    prediction: "torch.Tensor",
    scale: "torch.Tensor | None",
    rescale: "torch.Tensor | None",
    image_scale: "torch.Tensor | None",
    known: "torch.Tensor | None",
    history: "torch.Tensor",
    weights: "torch.Tensor",
    slots: "torch.Tensor",
    given: "torch.Tensor",
    noise: "torch.Tensor",
    call: "torch.Tensor",
    model_input: "torch.Tensor",
) -> "torch.Tensor":
    """One row of the table applied: x[i+1] into the history and, scaled, [copies, B, C, …], into the model's input."""
    output_slot, noise_slot, sample_slot = slots.index_select(0, call).unbind(1)
    history.index_copy_(0, output_slot, guided(prediction.float(), scale, rescale, image_scale).reshape(1, -1))
    if len(noise):
        history.index_copy_(0, noise_slot, noise.index_select(0, call))
    following = _product(weights.index_select(0, call), history)
    next_given = given.index_select(0, call)[0]
    if known is not None:
        mask = known[:1]
        following = mask * following + (1 - mask) * _product(next_given[None, 4:], known[1:])
    history.index_copy_(0, sample_slot, following)
    model_input.copy_((following * next_given[0]).view(model_input.shape[1:]))
    call.add_(1)
    return next_given


def _product(row: "torch.Tensor", tensors: "torch.Tensor") -> "torch.Tensor":
    """row [1, slots] @ tensors [slots, B·C·…]."""
    if tensors.is_cuda:  # where a matrix product may round to TF32, and this one is fused with what surrounds it
        return (row.T * tensors).sum(0, keepdim=True)
    # On a CPU that would be work for several of torch's threads, which then wait, spinning, for more, on the cores that
    # the engine's next step needs.
    return row @ tensors


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
    """Run what is left of a generation after the model's first call.

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
    steps = _steps_for(session, table, guidance, known, latents)
    steps.begin(latents, guidance, known)
    for start in range(0, len(plan), WINDOW):
        calls = range(start, min(start + WINDOW, len(plan)))
        noise = [table.draw(call, latents, generator) for call in calls]
        steps.load(start, plan, table, timesteps, noise, known)
        units = [steps.update]
        for call in calls[1:]:
            units += [session.step(plan.variants[call]), steps.update]
        if calls.stop < len(plan):
            units.append(session.step(plan.variants[calls.stop]))
        reached = _run(session, units, steps, start, on_step, is_stopped)
        if is_stopped():
            break
    return steps.sample(reached).to(latents.dtype).clone()


def _run(
    session: Session,
    units: Sequence[Unit],
    steps: Steps,
    start: int,
    on_step: Callable[[int], None],
    is_stopped: Callable[[], bool],
) -> int:
    """Run the units of the window at `start`, tell how many calls are done as often as there is news, and return it."""
    import torch

    graphs = session.shape.graphs
    if graphs is None or not graphs.launch(units):
        reached = start
        for unit in units:
            unit()
            if unit == steps.update:
                reached += 1
                on_step(reached)
                if is_stopped():
                    return reached
        if graphs is not None:
            graphs.record(units)
        return reached
    done = torch.cuda.Event()
    done.record()
    while not done.query():
        on_step(start + int(steps.reached))
        time.sleep(_POLL_SECONDS)
    on_step(start + int(steps.reached))
    return start + int(steps.reached)


def _steps_for(
    session: Session, table: SamplerTable, guidance: Guidance, known: Known | None, latents: "torch.Tensor"
) -> Steps:
    """The tensors for this shape, made once; larger rings where a scheduler remembers more."""
    import torch

    needed = [weights.shape[1] for weights in (table.sample_weights, table.output_weights, table.noise_weights)]
    rings = tuple(max(least, slots) if slots else 0 for least, slots in zip(_RINGS, needed, strict=True))
    scale = guidance.scale.shape if isinstance(guidance.scale, torch.Tensor) else guidance.scale is None
    forecasts = session.forecast is not None
    key = latents.shape, guidance.copies, scale, bool(guidance.rescale), known is None, rings, forecasts
    loops = session.shape.loops
    if key not in loops:
        loops[key] = Steps(session, latents, guidance, known, rings)
    return loops[key]


def _constant(number: "float | torch.Tensor", device: "torch.device") -> "torch.Tensor":
    """A number on the device, for others to be copied there."""
    import torch

    return torch.as_tensor(number).to(device, torch.float32, copy=True)


def _fused(function: Callable[..., "torch.Tensor"], device: "torch.device") -> Callable[..., "torch.Tensor"]:
    """On a GPU the function in as few kernels as torch's compiler makes of it, where that is there."""
    import torch

    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return function
    compiled: Callable[..., torch.Tensor] = torch.compile(function, fullgraph=True)
    return compiled
