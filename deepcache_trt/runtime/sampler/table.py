"""Sampler tables: a diffusers scheduler as the coefficients of one short recurrence.

Nearly every scheduler is linear in what it is given: the samples, the model's outputs and the noise. A scheduler sees
the newest sample and what it chose to remember, so a row reaches back as far as its memory (Euler 1 call, DPM++ 2M 2),
however many steps there are. `scheduler_probe` makes the tables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class SamplerTable:
    """The n calls of one generation: x[i] is the sample given to call i, ε[i] the model's output, z[i] the noise drawn.

        model input at call i = input_scales[i] · x[i]
        x[i+1] = Σ_d (sample_weights[i, d] · x[i-d] + output_weights[i, d] · ε[i-d] + noise_weights[i, d] · z[i-d])

    ε is what the pipeline hands to `step`: after guidance. A weight of a tensor from before the first call is 0.

    Attributes:
        input_scales: [n] float64.
        sample_weights: [n, X] float64, X ≥ 1.
        output_weights: [n, E] float64, E ≥ 1.
        noise_weights: [n, Z] float64; Z is 0 where nothing is drawn.
        draws: at which calls the scheduler draws noise, if only to ignore it.
        noise_dtypes: in which dtype noise is drawn, by that of the latents, as some schedulers upcast; empty if never.
        takes_edited_samples: whether x[i] may be edited after call i-1 made it, as inpainting does.
    """

    input_scales: NDArray[np.float64]
    sample_weights: NDArray[np.float64]
    output_weights: NDArray[np.float64]
    noise_weights: NDArray[np.float64]
    draws: tuple[bool, ...]
    noise_dtypes: Mapping[torch.dtype, torch.dtype]
    takes_edited_samples: bool

    def __len__(self) -> int:
        return len(self.draws)

    def in_rings(self, samples: int, outputs: int, noise: int) -> NDArray[np.float64]:
        """[n, samples + outputs + noise] float64: the weights for ring buffers, in which nothing ever moves.

        x[i] lies in slot i mod samples, ε[i] in samples + i mod outputs, z[i] in samples + outputs + i mod noise. All
        are read before x[i+1] is written. A slot that no call has filled has weight 0, and must hold finite numbers.

        Args:
            samples: slots for samples, at least X; with more, the same buffers serve other tables.
            outputs: slots for the model's outputs, at least E.
            noise: slots for noise, at least Z.
        """
        weights = (self.sample_weights, samples), (self.output_weights, outputs), (self.noise_weights, noise)
        return np.concatenate([_ring(lags, slots) for lags, slots in weights], axis=1)

    def next_sample(
        self,
        call: int,
        samples: Sequence[torch.Tensor],
        outputs: Sequence[torch.Tensor],
        noise: Sequence[torch.Tensor],
    ) -> torch.Tensor:
        """x[call+1] from all x, ε and z so far, oldest first; the reference for faster loops."""
        sample = torch.zeros_like(samples[call])
        for weights, tensors in (
            (self.sample_weights, samples),
            (self.output_weights, outputs),
            (self.noise_weights, noise),
        ):
            for lag in weights[call].nonzero()[0]:
                sample += float(weights[call, lag]) * tensors[call - lag]
        return sample

    def draw(
        self, call: int, latents: torch.Tensor, generator: torch.Generator | list[torch.Generator] | None
    ) -> torch.Tensor | None:
        """z[call], as the scheduler would have drawn it: one generator, one for each image, or torch's own.

        Args:
            call: the index of the call; calls must be asked for in order, since each draw moves the generator on.
            latents: whose shape the noise has, and whose dtype decides on that of the noise.
            generator: what the pipeline passes to `step`; None if it passes none.

        Returns:
            A tensor of the shape of `latents`, or None where the scheduler draws nothing. It is where its generator is,
            or else where `latents` are.
        """
        from diffusers.utils.torch_utils import randn_tensor

        if not self.draws[call]:
            return None
        dtype = self.noise_dtypes[latents.dtype]
        generators = generator if isinstance(generator, list) else [generator]
        places = {latents.device if each is None else each.device for each in generators}
        device = places.pop() if len(places) == 1 else latents.device
        noise: torch.Tensor = randn_tensor(latents.shape, generator=generator, device=device, dtype=dtype)
        return noise


@dataclass(frozen=True)
class NoTable:
    """Why a scheduler has to run its own `step`; the reason completes "Scheduler: …"."""

    reason: str


def _ring(lags: NDArray[np.float64], slots: int) -> NDArray[np.float64]:
    """[n, depth] weights by how many calls ago → [n, slots] by slot of a ring."""
    n, depth = lags.shape
    assert slots >= depth, f"{slots} slots for a memory of {depth} calls"
    ring = np.zeros([n, slots])
    call, lag = np.indices(lags.shape)
    ring[call, (call - lag) % max(slots, 1)] = lags
    return ring
