"""The denoising loop: everything of a generation between its first model output and its last latents.

A plan says which variant runs at each call, a sampler table what each call does to the latents; no scheduler and no
pipeline code runs in between.

    x[i] → scale → engine → guidance → ε[i] → table → x[i+1]
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deepcache_trt.runtime.plan import Plan
from deepcache_trt.runtime.sampler_table import SamplerTable
from deepcache_trt.runtime.session import Session

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How the halves of a prediction, without and with the prompt, become one (Ho and Salimans 2022).

    Attributes:
        scale: a number, or a tensor that broadcasts over the latents, as a video's scale for each frame; None: the
            model is called once for each image and its prediction is taken as it is.
        rescale: φ of Lin et al. 2023, section 3.4; 0 leaves it out.
    """

    scale: "float | torch.Tensor | None"
    rescale: float = 0.0

    @property
    def copies(self) -> int:
        """How often the model input repeats the latents."""
        return 1 if self.scale is None else 2

    def __call__(self, prediction: "torch.Tensor") -> "torch.Tensor":
        """ε [B, …] from the model's output [copies · B, …], in the order of operations that diffusers has."""
        if self.scale is None:
            return prediction
        without, with_prompt = prediction.chunk(2)
        guided = without + self.scale * (with_prompt - without)
        if not self.rescale:
            return guided
        axes = list(range(1, guided.ndim))
        rescaled = guided * (with_prompt.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True))
        return self.rescale * rescaled + (1 - self.rescale) * guided


class Latents:
    """Samples, outputs and noise of the last few calls, one below the other in one buffer, each in its ring.

    The next sample is one product of a row of weights with that buffer, in float32.
    """

    def __init__(self, table: SamplerTable, first: "torch.Tensor") -> None:
        """Start from x[0] `first`, [B, C, …]."""
        import torch

        lags = [weights.shape[1] for weights in (table.sample_weights, table.output_weights, table.noise_weights)]
        self._rings = lags
        self._history = torch.zeros(sum(lags), first.numel(), dtype=torch.float32, device=first.device)
        self._weights = torch.from_numpy(table.in_rings(*lags)).to(device=first.device, dtype=torch.float32)
        self._like = first
        self._store(0, 0, first)

    def sample(self, call: int) -> "torch.Tensor":
        """x[call], in float32; overwritten some calls later."""
        return self._history[call % self._rings[0]].view(self._like.shape)

    def advance(self, call: int, output: "torch.Tensor", noise: "torch.Tensor | None") -> None:
        """Make x[call + 1] from everything up to ε[call] and z[call]."""
        self._store(1, call, output)
        if noise is not None and self._rings[2]:
            self._store(2, call, noise)
        following = self._weights[call] @ self._history
        self._history[(call + 1) % self._rings[0]] = following

    def _store(self, ring: int, call: int, tensor: "torch.Tensor") -> None:
        start = sum(self._rings[:ring])
        self._history[start + call % self._rings[ring]].view(self._like.shape).copy_(tensor)


def denoise(
    session: Session,
    plan: Plan,
    table: SamplerTable,
    guidance: Guidance,
    *,
    latents: "torch.Tensor",
    prediction: "torch.Tensor",
    timesteps: Sequence["torch.Tensor"],
    generator: "torch.Generator | list[torch.Generator] | None",
    on_step: Callable[[int], None],
) -> "torch.Tensor":
    """Run what is left of a generation after the model's first call.

    Args:
        session: its buffers hold the inputs of that first call, and its taps.
        plan: the variant of each of the n calls.
        table: of the scheduler, for the same n calls.
        guidance: see `Guidance`.
        latents: x[0], [B, C, …].
        prediction: what the model returned at call 0, [copies · B, C, …].
        timesteps: [n]; what the model is told at each call.
        generator: where the scheduler would draw its noise from.
        on_step: told the index of each call when it is done.

    Returns:
        x[n], [B, C, …], in the dtype of `latents`.
    """
    assert len(plan) == len(table) == len(timesteps)
    state = Latents(table, latents)
    state.advance(0, guidance(prediction), table.draw(0, latents, generator))
    on_step(0)
    for call in range(1, len(plan)):
        session.feed(state.sample(call) * table.input_scales[call], timesteps[call], copies=guidance.copies)
        output = session.enqueue(plan.variants[call])
        state.advance(call, guidance(output), table.draw(call, latents, generator))
        on_step(call)
    return state.sample(len(plan)).to(latents.dtype).clone()
