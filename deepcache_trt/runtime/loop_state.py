"""What the denoising loop keeps beside the engines: tensors that stay where they are, and the update between two calls.

With x[i] the sample before call i, ε[i] the model's output after guidance and z[i] the noise, call i ends with

    ε[i]   = guided(prediction)
    x[i+1] = weights[i] · [x[i], x[i-1] …, ε[i], ε[i-1] …, z[i] …]        the history, as the sampler table says
    input  = scale[i+1] · x[i+1]

and all coefficients are read from a window of rows, at a counter that lies beside them on the device.
"""

import importlib.util
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from deepcache_trt.errors import of_compiler
from deepcache_trt.progress import logged
from deepcache_trt.runtime.guidance import Guidance, guided
from deepcache_trt.runtime.plan import Plan
from deepcache_trt.runtime.sampler.table import SamplerTable
from deepcache_trt.runtime.session import Session
from deepcache_trt.tensors import channels_of

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

_log = logging.getLogger(__name__)

# Calls whose coefficients and noise lie ready at a time.
WINDOW = 64


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


class Rings(NamedTuple):
    """How many slots of the history the samples, the outputs and the noise have, one ring below the other."""

    samples: int
    outputs: int
    noise: int

    def slots(self, calls: "NDArray[np.int64]") -> "NDArray[np.int64]":
        """[n, 3]: where ε[i], z[i] and x[i+1] go at these calls i."""
        outputs = self.samples + calls % self.outputs
        noise = self.samples + self.outputs + calls % max(self.noise, 1)
        return np.column_stack([outputs, noise, (calls + 1) % self.samples])


# The columns of a window's row, after the weights of x[i+1] over the history: where call i puts ε[i], z[i] and x[i+1],
# the scale of the model's input at call i+1, its timestep, and how noisy what is known is at x[i+1], as the weights of
# its latents and its noise. The rows of the forecast for call i+1 come last, one after the other.
_COLUMNS = (3, 1, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The tensors of one shape that an update reads and writes, all float32 unless said otherwise.

    Attributes:
        prediction: [copies · B, C, …], what the model gave, in its own dtype.
        model_input: [copies, B, C, …], what it is given, in its own dtype.
        timestep: [1] or [copies · B], what it is told, in its own dtype.
        forecast: [tensors, columns], see `Forecast.rows`; none where nothing is forecast.
        scale: of the guidance; this and the next two are None where the guidance has no such number.
        rescale: of the guidance.
        image_scale: of the guidance.
        is_paired: whether the latents have two halves, the second a copy of the first.
        channels: how many of the first channels are guided; None: all.
        known: [3, B·C·…], the mask, latents and noise of an image that is kept in part; None: there is none.
        history: [slots, B·C·…], the last few x, ε and z, each kind in its ring.
        rows: [WINDOW, slots + 7 + tensors · columns], see `_COLUMNS`.
        noise: [WINDOW, B·C·…]; no rows where no noise is drawn.
        call: [1] int64, the row of call i.
    """

    prediction: "torch.Tensor"
    model_input: "torch.Tensor"
    timestep: "torch.Tensor"
    forecast: "torch.Tensor"
    scale: "torch.Tensor | None"
    rescale: "torch.Tensor | None"
    image_scale: "torch.Tensor | None"
    is_paired: bool
    channels: int | None
    known: "torch.Tensor | None"
    history: "torch.Tensor"
    rows: "torch.Tensor"
    noise: "torch.Tensor"
    call: "torch.Tensor"


def advance(memory: Memory) -> None:
    """From the model's output at call i to all that it is given at call i+1."""
    history, call = memory.history, memory.call
    row = memory.rows.index_select(0, call)[0]
    columns = len(history), *_COLUMNS, memory.forecast.numel()
    weights, slots, scale, timestep, of_known, forecast = row.split(columns)
    output_slot, noise_slot, sample_slot = slots.long().split(1)
    prediction, parts = memory.prediction.float(), (memory.is_paired, memory.channels)
    epsilon = guided(prediction, memory.scale, memory.rescale, memory.image_scale, *parts)
    history.index_copy_(0, output_slot, epsilon.reshape(1, -1))
    if len(memory.noise):
        history.index_copy_(0, noise_slot, memory.noise.index_select(0, call))
    sample = _product(weights[None], history)
    if memory.known is not None:
        mask, kept = memory.known[:1], _product(of_known[None], memory.known[1:])
        sample = mask * sample + (1 - mask) * kept
    if memory.is_paired:  # noise is drawn for both halves, and only that of the first one counts
        sample = sample.view(2, -1)[:1].repeat(1, 2)
    history.index_copy_(0, sample_slot, sample)
    memory.model_input.copy_((sample * scale).view(memory.model_input.shape[1:]))
    memory.timestep.copy_(timestep)  # of all images, or of each
    memory.forecast.copy_(forecast.view(memory.forecast.shape))
    call.add_(1)


def _product(row: "torch.Tensor", tensors: "torch.Tensor") -> "torch.Tensor":
    """row [1, slots] @ tensors [slots, B·C·…]."""
    if tensors.is_cuda:  # where a matrix product may round to TF32, and this one is fused with what surrounds it
        return (row.T * tensors).sum(0, keepdim=True)
    # On a CPU that would be work for several of torch's threads, which then wait, spinning, for more, on the cores that
    # the engine's next step needs.
    return row @ tensors


class LoopState:
    """The memory of one shape, filled for each generation; `update` is what is recorded on a GPU."""

    def __init__(
        self, session: Session, latents: "torch.Tensor", guidance: Guidance, known: Known | None, rings: Rings
    ) -> None:
        import torch

        def tensor(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=latents.device)

        self.is_on_gpu = latents.is_cuda
        self._rings = rings
        self._computing = session.computing
        self._shape = latents.shape
        forecast = tensor(0) if session.forecast is None else session.forecast.rows
        self._memory = Memory(
            prediction=channels_of(session.prediction, latents),
            model_input=channels_of(session.buffers["sample"], latents).unflatten(0, (guidance.copies, -1)),
            timestep=session.buffers["timestep"],
            forecast=forecast,
            scale=_constant(guidance.scale, latents.device),
            rescale=_constant(guidance.rescale or None, latents.device),
            image_scale=_constant(guidance.image_scale, latents.device),
            is_paired=guidance.is_paired,
            channels=guidance.channels,
            known=None if known is None else tensor(3, latents.numel()),
            history=tensor(sum(rings), latents.numel()),
            rows=tensor(WINDOW, sum(rings) + sum(_COLUMNS) + forecast.numel()),
            noise=tensor(WINDOW if rings.noise else 0, latents.numel()),
            call=tensor(1, dtype=torch.int64),
        )
        # Recorded units are told apart by what they are: these are the same functions for as long as this lives.
        self.update = fused(self._memory) if latents.is_cuda else partial(advance, self._memory)
        self._drawn = torch.zeros(self._memory.noise.shape, pin_memory=True) if latents.is_cuda else self._memory.noise
        self.reached = torch.zeros(1, dtype=torch.int64, pin_memory=latents.is_cuda)  # `call`, for the host to see

    def begin(self, first: "torch.Tensor", guidance: Guidance, known: Known | None) -> None:
        """Start from x[0] `first`, [B, C, …]; a slot that no call has filled must hold finite numbers."""
        import torch

        memory = self._memory
        memory.history.zero_()
        memory.history[0].view(self._shape).copy_(first)
        for constant, number in (
            (memory.scale, guidance.scale),
            (memory.rescale, guidance.rescale),
            (memory.image_scale, guidance.image_scale),
        ):
            if constant is None or number is None:
                continue
            if isinstance(number, torch.Tensor):
                constant.copy_(number)
            else:  # a number that is written takes no copy from the host
                constant.fill_(number)
        if memory.known is not None and known is not None:
            for row, tensor in zip(memory.known, (known.mask, known.latents, known.noise), strict=True):
                row.view(self._shape).copy_(tensor)

    def load(
        self,
        start: int,
        plan: Plan,
        table: SamplerTable,
        times: "NDArray[np.float64]",
        noise: Sequence["torch.Tensor | None"],
        known: Known | None,
    ) -> None:
        """Fill the window with the calls from `start` on, as many as there is noise for.

        Args:
            start: the first call.
            plan: of all n calls.
            table: of the same.
            times: [n], the timesteps of the same.
            noise: of each call of the window, on the device or the CPU.
            known: as for `begin`.
        """
        import torch

        memory, count = self._memory, len(noise)
        calls = np.arange(start, start + count)
        following = np.minimum(calls + 1, len(plan) - 1)  # what the last call gives is not read
        of_known = np.zeros([count, 2]) if known is None else known.scales[calls]
        weights, slots = table.in_rings(*self._rings)[calls], self._rings.slots(calls)
        forecast = plan.forecast_rows(self._computing)
        given = [table.input_scales[following], times[following], of_known, forecast[following]]
        memory.rows[:count].copy_(torch.from_numpy(np.column_stack([weights, slots, *given]).astype(np.float32)))
        of_host = False
        for row, drawn in enumerate(noise):
            if drawn is not None and self._rings.noise:
                of_host = of_host or drawn.device != memory.noise.device
                rows = self._drawn if drawn.device.type == "cpu" else memory.noise
                rows[row].view(self._shape).copy_(drawn)
        if of_host:
            memory.noise.copy_(self._drawn, non_blocking=True)
        memory.call.zero_()
        self.reached.zero_()

    def tell(self) -> None:
        """Say in `reached` how many calls of the window are done."""
        self.reached.copy_(self._memory.call, non_blocking=True)

    def sample(self, call: int) -> "torch.Tensor":
        """x[call] [B, C, …] float32, if it is the last that there is."""
        return self._memory.history[call % self._rings.samples].view(self._shape)


def _constant(number: "float | torch.Tensor | None", device: "torch.device") -> "torch.Tensor | None":
    """A number on the device, for others to be copied there."""
    import torch

    return None if number is None else torch.as_tensor(number).to(device, torch.float32, copy=True)


def fused(memory: Memory) -> Callable[[], None]:
    """`advance` in as few kernels as torch's compiler makes of it; as it is where there is no compiler or it fails.

    It is compiled here and now, by a first run on `memory`, whose numbers are of no use afterwards.
    """
    import torch

    if importlib.util.find_spec("triton") is None and memory.history.is_cuda:
        return partial(advance, memory)
    # torch keeps what it compiled, and counts it up to a limit, by code object: each memory gets one of its own.
    own = FunctionType(advance.__code__.replace(), advance.__globals__)
    compiled = torch.compile(own, fullgraph=True, dynamic=False)
    try:
        with logged("compiling the update between two steps"):
            compiled(memory)
    except Exception as error:  # whatever torch's compiler or the one that it needs lacks here
        _log.warning("the update between two steps runs in eager PyTorch: %s", of_compiler(error))
        return partial(advance, memory)

    def update() -> None:
        try:
            compiled(memory)
        except torch._dynamo.exc.FailOnRecompileLimitHit:  # the caller's modes of torch, which it minds, change often
            advance(memory)

    return update
