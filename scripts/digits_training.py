"""What the bundled models have in common in training: the optimiser, averaged weights, cached latents, the loss."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from digits_model import Digits, augment, to_pictures
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a denoiser is trained.

    Attributes:
        rate: the peak of the learning rate.
        ema: how much of the averaged weights a step keeps.
        seed: of everything that is drawn in training; weights start from seed 0.
    """

    steps: int
    batch: int
    rate: float
    weight_decay: float = 0.01
    ema: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class LatentRecipe(Recipe):
    """How a denoiser of latents under a condition is trained.

    Attributes:
        drop: the share of conditions that are left out, for guidance.
        copies: augmented copies of every image that are encoded once.
    """

    drop: float
    copies: int = 8


@dataclass(frozen=True)
class Latents:
    """Cached posteriors: mean and spread (copies * N, 4, 8, 8), already scaled, with labels (copies * N,)."""

    mean: Tensor
    spread: Tensor
    labels: Tensor


class Average:
    """The exponential average of a model's weights."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Begin with the weights as they are."""
        self._parameters = list(model.parameters())
        self._average = [p.detach().clone() for p in self._parameters]
        self._decay = decay

    def follow(self, step: int) -> None:
        """Take in the weights after this step; early ones are forgotten sooner."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._average, [p.detach() for p in self._parameters], 1 - decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Give the model the averaged weights."""
        for parameter, mean in zip(self._parameters, self._average, strict=True):
            parameter.copy_(mean)


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A time on the wall and of the processor, in seconds."""

    wall: float
    processor: float


def now() -> Moment:
    """This moment."""
    return Moment(wall=time.monotonic(), processor=time.process_time())


def minutes_since(start: Moment) -> str:
    """What has passed, in words."""
    end = now()
    wall, processor = (end.wall - start.wall) / 60, (end.processor - start.processor) / 60
    return f"{wall:.1f} minutes, {processor:.1f} of the processor"


def rate_at(step: int, steps: int, warmup: int = 100) -> float:
    """Linear warm-up and cosine decay, as a factor of the peak rate."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def fit(
    parameters: Iterable[nn.Parameter], loss_at: Callable[[], Tensor], after: Callable[[int], None],
    steps: int, rate: float, weight_decay: float, name: str,
) -> None:  # fmt: skip
    """Minimise loss_at() with AdamW and clipped gradients; `after` is called with each finished step."""
    held = list(parameters)
    optimizer = torch.optim.AdamW(held, lr=rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, steps))
    started, total = time.monotonic(), 0.0
    for step in range(steps):
        loss = loss_at()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(held, 1.0)
        optimizer.step()
        schedule.step()
        after(step)
        total += loss.item()
        if step % 50 == 49:
            print(f"{name} {step + 1}/{steps} loss {total / 50:.5f} {time.monotonic() - started:.0f} s", flush=True)
            total = 0.0


def fit_averaged(model: nn.Module, loss_at: Callable[[], Tensor], recipe: Recipe) -> None:
    """Minimise loss_at() by the recipe; the model ends with the averaged weights."""
    average = Average(model, recipe.ema)
    fit(model.parameters(), loss_at, average.follow, recipe.steps, recipe.rate, recipe.weight_decay, "diffusion")
    average.apply()
    model.eval()


def noise_loss(
    predict: Callable[[Tensor, Tensor], Tensor], clean: Tensor, scheduler: DDIMScheduler, generator: torch.Generator
) -> Tensor:
    """Squared error of predict(noisy, times) at random times (N,): what the scheduler wants of `clean` (N, C, H, W)."""
    noise = torch.randn(clean.shape, generator=generator)
    times = torch.randint(scheduler.config.num_train_timesteps, (len(clean),), generator=generator)
    is_velocity = scheduler.config.prediction_type == "v_prediction"
    wanted = scheduler.get_velocity(clean, noise, times) if is_velocity else noise
    return functional.mse_loss(predict(scheduler.add_noise(clean, noise, times), times), wanted)


@torch.no_grad()
def cache_latents(vae: AutoencoderKL, data: Digits, recipe: LatentRecipe) -> Latents:
    """Encode `copies` augmented copies of every image once, since the autoencoder is fixed by now."""
    generator = torch.Generator().manual_seed(recipe.seed)
    batches = to_pictures(data.images).repeat(recipe.copies, 1, 1, 1).split(128)
    encoded = [vae.encode(augment(batch, generator)).latent_dist for batch in batches]
    scale = vae.config.scaling_factor
    mean = scale * torch.cat([e.mean for e in encoded])
    return Latents(mean, scale * torch.cat([e.std for e in encoded]), data.labels.repeat(recipe.copies))


def draw_latents(latents: Latents, chosen: Tensor, generator: torch.Generator) -> Tensor:
    """One sample (N, 4, 8, 8) of each chosen posterior."""
    mean = latents.mean[chosen]
    return mean + latents.spread[chosen] * torch.randn(mean.shape, generator=generator)
