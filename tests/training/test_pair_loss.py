"""The loss of a pair of steps: the mix at its ends, what it is made of by hand, and what has a gradient."""

from typing import Any

import pytest
import torch
from diffusers import EDMEulerScheduler

from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models.registry import architecture_of
from deepcache_trt.models.taps import tapped
from deepcache_trt.training.pair_loss import loss_of_pair, mixed, teacher_of
from tests import tiny
from tests.training.taught import STEPS, condition, scheduler, teacher

CHANNELS = {"dit": 4, "ddpm": 3}
MODELS = pytest.mark.parametrize("name", CHANNELS)


def drawn(name: str, seed: int) -> torch.Tensor:
    return torch.randn(4, CHANNELS[name], 8, 8, generator=torch.Generator().manual_seed(seed))


@MODELS
@torch.no_grad()
def test_a_weight_of_one_is_the_model_and_of_zero_what_was_kept_bit_for_bit(name: str) -> None:
    taught, first, second = teacher(name), drawn(name, 0), drawn(name, 1)
    model, taps = taught.model, taught.architecture.taps
    early, late = taught.timesteps[:2]
    with tapped(model, taps, consumed={}) as kept:
        taught.predict(first, early, condition(name))
    plain = taught.predict(second, late, condition(name))
    with mixed(model, taps, cached=kept, weights=torch.ones(len(taps))):
        assert torch.equal(taught.predict(second, late, condition(name)), plain)
    with tapped(model, taps, consumed=kept):
        reused = taught.predict(second, late, condition(name))
    with mixed(model, taps, cached=kept, weights=torch.zeros(len(taps))):
        assert torch.equal(taught.predict(second, late, condition(name)), reused)
    assert not torch.equal(plain, reused)
    mask = torch.arange(len(taps)) % 3 == 0
    with tapped(model, taps, consumed={tap.name: kept[tap.name] for tap, on in zip(taps, ~mask, strict=True) if on}):
        some = taught.predict(second, late, condition(name))
    with mixed(model, taps, cached=kept, weights=mask.float()):
        assert torch.equal(taught.predict(second, late, condition(name)), some)
    assert torch.equal(taught.predict(second, late, condition(name)), plain), "the hooks are gone"


@MODELS
def test_the_loss_is_that_of_a_cached_step_after_a_full_one(name: str) -> None:
    taught, latents, noise = teacher(name), drawn(name, 0), drawn(name, 1)
    taps, pair = taught.architecture.taps, 1
    logits = torch.randn(len(taps), generator=torch.Generator().manual_seed(2))
    error, scores = loss_of_pair(taught, logits, pair, latents=latents, noise=noise, condition=condition(name))
    plan: Any = scheduler()
    plan.set_timesteps(STEPS)
    full, cached = plan.timesteps[2:4]
    share = plan.alphas_cumprod[full], plan.alphas_cumprod[cached]
    noisy = share[0].sqrt() * latents + (1 - share[0]).sqrt() * noise
    with torch.no_grad():
        with tapped(taught.model, taps, consumed={}) as kept:
            predicted = taught.predict(noisy, full, condition(name))[:, : CHANNELS[name]]
        clean = (noisy - (1 - share[0]).sqrt() * predicted) / share[0].sqrt()
        following = share[1].sqrt() * clean + (1 - share[1]).sqrt() * predicted
        wanted = taught.predict(following, cached, condition(name))
        with mixed(taught.model, taps, cached=kept, weights=logits.sigmoid()):
            given = taught.predict(following, cached, condition(name))
    assert error == pytest.approx(float((given - wanted).square().mean()), rel=1e-3)
    assert scores == pytest.approx(float(logits.sigmoid().sum()))


@MODELS
def test_only_the_logits_have_a_gradient(name: str) -> None:
    taught = teacher(name)
    logits = torch.zeros(len(taught.architecture.taps), requires_grad=True)
    error, _ = loss_of_pair(taught, logits, 0, latents=drawn(name, 0), noise=drawn(name, 1), condition=condition(name))
    error.backward()
    assert logits.grad is not None
    assert bool((logits.grad != 0).any())
    assert all(weight.grad is None and not weight.requires_grad for weight in taught.model.parameters())


def test_nothing_is_lost_where_everything_is_computed() -> None:
    taught = teacher()
    certain = torch.full([len(taught.architecture.taps)], 100.0)
    error, scores = loss_of_pair(
        taught, certain, 0, latents=drawn("dit", 0), noise=drawn("dit", 1), condition=condition()
    )
    assert (float(error), float(scores)) == (0, len(certain))


def test_a_model_that_cannot_be_taught_is_refused() -> None:
    vae = tiny.part("vae")
    with pytest.raises(UnsupportedError, match="AutoencoderKL has no taps that a router could reuse"):
        teacher_of(vae, architecture_of(vae, dtype="float32"), scheduler(), STEPS)
    model = tiny.new_denoiser("dit")
    with pytest.raises(UnsupportedError, match="a EDMEulerScheduler does not add noise by betas"):
        teacher_of(model, architecture_of(model, dtype="float32"), EDMEulerScheduler(), STEPS)
