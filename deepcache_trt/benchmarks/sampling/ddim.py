"""DDIM over listed timesteps, as the code beside the paper spaces them (Song, Meng and Ermon 2021).

diffusers' own DDIM has the step of one timestep to a fixed distance before it; here it goes to the next one listed.
"""

import math
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.utils.torch_utils import randn_tensor

from deepcache_trt.errors import DeepCacheError, UnknownNameError, did_you_mean

SKIP_TYPES = ("uniform", "quad")

# Of the trained timesteps, the share that the quadratic spacing covers.
_QUAD_SHARE = 0.8

_PLAIN: Any = DDIMScheduler  # diffusers has no types for it


def listed_timesteps(skip_type: str, trained: int, steps: int) -> list[int]:
    """The timesteps that a sampler goes through, falling, of 0…T-1.

    "uniform": 0, T//S, 2·(T//S), … below T; where S is no divisor of T there are more than S of them.
    "quad": the whole parts of the squares of S numbers evenly from 0 to √(0.8·T), both included. At small timesteps
    they repeat. A step from a timestep to itself changes nothing, so each is listed once, and there are fewer than S
    where S is large.

    Args:
        skip_type: one of `SKIP_TYPES`.
        trained: T, the timesteps of training.
        steps: S.

    Raises:
        UnknownNameError: another skip type.
        DeepCacheError: no steps, or more than there are timesteps.
    """
    if skip_type not in SKIP_TYPES:
        meant = did_you_mean(skip_type, list(SKIP_TYPES))
        raise UnknownNameError(f"unknown skip type {skip_type!r}{meant}; there are {', '.join(SKIP_TYPES)}")
    if not 1 <= steps <= trained:
        raise DeepCacheError(f"{steps} steps are outside 1…{trained}: the model was trained with {trained} timesteps")
    if skip_type == "uniform":
        return list(range(0, trained, trained // steps))[::-1]
    squares = np.linspace(0, math.sqrt(trained * _QUAD_SHARE), steps) ** 2
    return sorted({int(square) for square in squares}, reverse=True)


class ListedDDIM(DDIMScheduler):
    """DDIM over listed timesteps; after the last one comes the image without noise.

    Attributes:
        skip_type: how `set_timesteps` lists them, see `listed_timesteps`.
    """

    skip_type = "uniform"
    config: Any
    alphas_cumprod: torch.Tensor

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """List the timesteps; how many there are may differ from what is asked for, see `listed_timesteps`."""
        listed = listed_timesteps(self.skip_type, self.config.num_train_timesteps, num_inference_steps)
        self.num_inference_steps = len(listed)
        self.timesteps = torch.tensor(listed, dtype=torch.int64, device=device)

    def step(
        self,
        model_output: torch.Tensor,
        timestep: Any,
        sample: torch.Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> Any:
        """x of the next timestep listed: √ᾱ′·x₀ + √(1 - ᾱ′ - σ²)·ε + σ·z, equation 12 of the paper.

        σ = η·√((1 - ᾱ′)/(1 - ᾱ))·√(1 - ᾱ/ᾱ′), its equation 16.

        Args:
            model_output: [B, C, H, W].
            timestep: one of those listed.
            sample: x of this timestep, [B, C, H, W].
            eta: η; 0 draws no noise, 1 as much as DDPM.
            use_clipped_model_output: as in diffusers; nothing is clipped, so it changes nothing.
            generator: of z; a list has one for each image.
            return_dict: whether to return a class of outputs instead of a tuple.
        """
        clean = _PLAIN.step(self, model_output, timestep, sample).pred_original_sample
        here = self.alphas_cumprod[timestep]
        below = self.timesteps[self.timesteps < timestep]
        after = self.alphas_cumprod[below.max()] if len(below) else torch.ones(())
        noise = (sample - here.sqrt() * clean) / (1 - here).sqrt()
        sigma = eta * ((1 - after) / (1 - here) * (1 - here / after)).sqrt()
        following = after.sqrt() * clean + (1 - after - sigma**2).sqrt() * noise
        if eta > 0:
            drawn = randn_tensor(
                sample.shape, generator=generator, device=model_output.device, dtype=model_output.dtype
            )
            following = following + sigma * drawn
        if not return_dict:
            return following, clean
        return DDIMSchedulerOutput(prev_sample=following, pred_original_sample=clean)


def listed_ddim(own: Any, skip_type: str) -> ListedDDIM:
    """The sampler for the model that a pipeline's own scheduler is for.

    As in the paper's code, the predicted image is not clipped, whatever the scheduler's config says of it.
    """
    made: Any = ListedDDIM
    scheduler: ListedDDIM = made.from_config(own.config, clip_sample=False, thresholding=False)
    scheduler.skip_type = skip_type
    return scheduler
