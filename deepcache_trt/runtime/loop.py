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
from deepcache_trt.runtime.plan import Plan
from deepcache_trt.runtime.sampler_table import SamplerTable
from deepcache_trt.runtime.session import Session

if TYPE_CHECKING:
    import torch

# Calls whose coefficients and noise lie ready at a time.
WINDOW = 64

# Slots for samples, outputs and noise that most schedulers share. One that remembers more, as SA does, or that draws
# no noise, has tensors and so an update of its own; engines' steps are shared by all.
_RINGS = (4, 5, 1)

# How long a GPU is left alone before it is asked again how far it is; a step of a large model takes tens of them.
_POLL_SECONDS = 0.001


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How the parts of a prediction become one.

    Of two, without and with the prompt: Ho and Salimans 2022. Of three, with prompt and image, with the image, and with
    neither: Brooks et al. 2023, equation 3.

    Attributes:
        scale: a number, or a tensor that broadcasts over the latents, as a video's scale for each frame; None: the
            model is called once for each image and its prediction is taken as it is.
        rescale: φ of Lin et al. 2023, section 3.4; 0 leaves it out.
        image_scale: of the image, where there are three parts; None: there are not.
    """

    scale: "float | torch.Tensor | None"
    rescale: float = 0.0
    image_scale: float | None = None

    @property
    def copies(self) -> int:
        """How often the model input repeats the latents."""
        return 1 if self.scale is None else 2 if self.image_scale is None else 3

    def __call__(self, prediction: "torch.Tensor") -> "torch.Tensor":
        """ε [B, …] from the model's output [copies · B, …]."""
        return _guided(prediction, self.scale, self.rescale or None, self.image_scale)


def _guided(
    prediction: "torch.Tensor",
    scale: "float | torch.Tensor | None",
    rescale: "float | torch.Tensor | None",
    image_scale: "float | torch.Tensor | None",
) -> "torch.Tensor":
    """In the order of operations that diffusers has."""
    if scale is None:
        return prediction
    if image_scale is not None:
        with_both, with_image, without = prediction.chunk(3)
        return without + scale * (with_both - with_image) + image_scale * (with_image - without)
    without, with_prompt = prediction.chunk(2)
    guided = without + scale * (with_prompt - without)
    if rescale is None:
        return guided
    axes = list(range(1, guided.ndim))
    rescaled = guided * (with_prompt.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True))
    return rescale * rescaled + (1 - rescale) * guided


class Steps:
    """The tensors that a loop keeps beside the engines', and the update that each call ends with.

    The history [slots, B·C·…] float32 has the samples, outputs and noise of the last few calls one below the other,
    each in its ring; the next sample is one product of a row of weights with it.
    """

    def __init__(self, session: Session, latents: "torch.Tensor", guidance: Guidance, rings: tuple[int, ...]) -> None:
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
        self._history = tensor(sum(rings), latents.numel())
        self._weights = tensor(WINDOW, sum(rings))
        self._slots = tensor(WINDOW, 3, dtype=torch.int64)  # of ε[i], z[i] and x[i+1]
        self._given = tensor(WINDOW, 4)  # to call i+1: scale, timestep, and the rates of its forecast
        self._noise = tensor(WINDOW if rings[2] else 0, latents.numel())
        self._call = tensor(1, dtype=torch.int64)  # within the window
        self._advance = _fused(_advance, latents.device)
        self.reached = torch.zeros(1, dtype=torch.int64, pin_memory=latents.is_cuda)  # `_call`, for the host to see

    def begin(self, first: "torch.Tensor", guidance: Guidance) -> None:
        """Start from x[0] `first`, [B, C, …]; a slot that no call has filled must hold finite numbers."""
        import torch

        self._history.zero_()
        self._history[0].view(self._shape).copy_(first)
        ours = self._scale, self._rescale, self._image_scale
        for constant, number in zip(ours, (guidance.scale, guidance.rescale, guidance.image_scale), strict=True):
            if constant is not None:
                constant.copy_(torch.as_tensor(number))

    def load(
        self,
        start: int,
        plan: Plan,
        table: SamplerTable,
        timesteps: Sequence["torch.Tensor"],
        noise: Sequence["torch.Tensor | None"],
    ) -> None:
        """Fill the window with the calls from `start` on, as many as there is noise for."""
        import torch

        count, (x, e, z) = len(noise), self._rings
        calls = np.arange(start, start + count)
        following = np.minimum(calls + 1, len(plan) - 1)  # what the last call gives is not read
        times = torch.stack(list(timesteps)).double().cpu().numpy()
        given = np.column_stack([table.input_scales, times, plan.forecast_rates])[following]
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
        given = self._advance(*guidance, self._history, *coefficients, self._call, self._input)
        self._timestep.copy_(given[1])
        if self._rates is not None:
            self._rates.copy_(given[2:])
        self.reached.copy_(self._call, non_blocking=True)

    def sample(self, call: int) -> "torch.Tensor":
        """x[call] [B, C, …] float32, if it is the last that there is."""
        return self._history[call % self._rings[0]].view(self._shape)


def _advance(
    prediction: "torch.Tensor",
    scale: "torch.Tensor | None",
    rescale: "torch.Tensor | None",
    image_scale: "torch.Tensor | None",
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
    history.index_copy_(0, output_slot, _guided(prediction.float(), scale, rescale, image_scale).reshape(1, -1))
    if len(noise):
        history.index_copy_(0, noise_slot, noise.index_select(0, call))
    following = _product(weights.index_select(0, call), history)
    history.index_copy_(0, sample_slot, following)
    next_given = given.index_select(0, call)[0]
    model_input.copy_((following * next_given[0]).view(model_input.shape[1:]))
    call.add_(1)
    return next_given


def _product(row: "torch.Tensor", history: "torch.Tensor") -> "torch.Tensor":
    """row [1, slots] @ history [slots, B·C·…]."""
    if history.is_cuda:  # where a matrix product may round to TF32, and this one is fused with what surrounds it
        return (row.T * history).sum(0, keepdim=True)
    # On a CPU that would be work for several of torch's threads, which then wait, spinning, for more, on the cores that
    # the engine's next step needs.
    return row @ history


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

    Returns:
        x[n], [B, C, …], in the dtype of `latents`; where it was stopped, x after the calls that were done.
    """
    assert len(plan) == len(table) == len(timesteps)
    steps = _steps_for(session, table, guidance, latents)
    steps.begin(latents, guidance)
    for start in range(0, len(plan), WINDOW):
        calls = range(start, min(start + WINDOW, len(plan)))
        steps.load(start, plan, table, timesteps, [table.draw(call, latents, generator) for call in calls])
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


def _steps_for(session: Session, table: SamplerTable, guidance: Guidance, latents: "torch.Tensor") -> Steps:
    """The tensors for this shape, made once; larger rings where a scheduler remembers more."""
    import torch

    needed = [weights.shape[1] for weights in (table.sample_weights, table.output_weights, table.noise_weights)]
    rings = tuple(max(least, slots) if slots else 0 for least, slots in zip(_RINGS, needed, strict=True))
    scale = guidance.scale.shape if isinstance(guidance.scale, torch.Tensor) else guidance.scale is None
    key = latents.shape, guidance.copies, scale, bool(guidance.rescale), rings, session.forecast is not None
    loops = session.shape.loops
    if key not in loops:
        loops[key] = Steps(session, latents, guidance, rings)
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
