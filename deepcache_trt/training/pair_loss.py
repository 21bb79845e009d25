"""The loss of Learning-to-Cache (Ma et al. 2024, section 3.2): how far a cached call is from the same call in full.

Of a pair of sampling steps the first one fills the cache and makes the latents of the second, without a gradient. There
the model is called twice: as it is, and with each tap a mix of what it computes and what the first call had. The router
is a logit for each tap of each pair, and its sigmoid, the score, is the share that is computed. What is learnt is only
the logits, which the square of the difference holds up and the sum of the scores pulls down.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models.architecture import OUTPUT, Architecture
from deepcache_trt.models.taps import Tap, tapped

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Teacher:
    """A model that a router is trained for.

    Attributes:
        model: in evaluation mode, its weights without gradients.
        architecture: of the model, with its taps.
        scheduler: a DDIM, by which x_t is made and a step is done.
        timesteps: [2 · pairs], of sampling, the noisiest first.
    """

    model: Any
    architecture: Architecture
    scheduler: Any
    timesteps: torch.Tensor

    @property
    def pairs(self) -> int:
        """Of a full and a cached step."""
        return len(self.timesteps) // 2

    def predict(self, latents: torch.Tensor, timestep: torch.Tensor, condition: Tensors) -> torch.Tensor:
        """All that the model gives, [B, C or 2 C, H, W], for latents [B, C, H, W] at one timestep."""
        (spec,) = (each for each in self.architecture.inputs if each.name == "timestep")
        times = timestep.to(getattr(torch, spec.dtype)).expand(spec.resolve({"batch": len(latents)}))
        tensors = {"sample": latents, "timestep": times, **condition}
        return self.architecture.call(self.model, tensors)[OUTPUT]


def teacher_of(model: Any, architecture: Architecture, scheduler: Any, steps: int) -> Teacher:
    """Take over a model; it is the caller's no longer.

    Args:
        model: on the device to train on.
        architecture: of the model.
        scheduler: of its pipeline; a DDIM with the same noise takes its place.
        steps: of sampling, an even number.

    Raises:
        UnsupportedError: a model without taps, or a scheduler without such noise.
    """
    from diffusers import DDIMScheduler

    if not architecture.taps:
        raise UnsupportedError(f"{type(model).__name__} has no taps that a router could reuse; take another model")
    if "beta_schedule" not in scheduler.config:
        raise UnsupportedError(
            f"a {type(scheduler).__name__} does not add noise by betas, as training does; take a model that does"
        )
    own: Any = DDIMScheduler.from_config(scheduler.config)
    own.set_timesteps(steps)
    device = next(model.parameters()).device
    return Teacher(
        model=model.eval().requires_grad_(False),
        architecture=architecture,
        scheduler=own,
        timesteps=own.timesteps.to(device),
    )


def loss_of_pair(
    teacher: Teacher, logits: torch.Tensor, pair: int, *, latents: torch.Tensor, noise: torch.Tensor, condition: Tensors
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean square of what reusing changes, and the sum of the scores; the loss is the first plus λ times the other.

    Args:
        teacher: the model.
        logits: [taps], of the cached step.
        pair: which one, 0 the noisiest.
        latents: [B, C, H, W] float32 of real images.
        noise: as many numbers, unit normal.
        condition: what else the model is called with, a row for each image.
    """
    full, cached = teacher.timesteps[2 * pair : 2 * pair + 2]
    with torch.no_grad():
        noisy = teacher.scheduler.add_noise(latents, noise, full.expand(len(latents)))
        with tapped(teacher.model, teacher.architecture.taps, consumed={}) as kept:
            predicted = teacher.predict(noisy, full, condition)
        # A model that learnt its variance gives that too, which a step of DDIM does not read.
        following = teacher.scheduler.step(predicted[:, : latents.shape[1]], full, noisy).prev_sample
        wanted = teacher.predict(following, cached, condition)
    scores = logits.sigmoid()
    with mixed(teacher.model, teacher.architecture.taps, cached=kept, weights=scores):
        given = teacher.predict(following, cached, condition)
    return (given - wanted).square().mean(), scores.sum()


@contextmanager
def mixed(model: Any, taps: Sequence[Tap], *, cached: Tensors, weights: torch.Tensor) -> Iterator[None]:
    """Within the block each tap is w · what the model computes + (1 - w) · what was kept of it.

    Args:
        model: whose taps they are.
        taps: all of them.
        cached: by their names.
        weights: [taps], w of each: 1 computes it, 0 reuses it.
    """

    def mixing(name: str, weight: torch.Tensor) -> Any:
        def on_forward(module: Any, args: Any, output: Any) -> Any:
            computed = output[0] if isinstance(output, tuple) else output
            mix = weight * computed + (1 - weight) * cached[name]
            return (mix, *output[1:]) if isinstance(output, tuple) else mix

        return on_forward

    handles = [
        model.get_submodule(tap.path).register_forward_hook(mixing(tap.name, weight))
        for tap, weight in zip(taps, weights, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
