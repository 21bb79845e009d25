"""Each pipeline draws what plain diffusers draws, and cached what caching in plain PyTorch draws."""

import functools
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import DeepCache
import diffusers
import pytest
import torch

from tests.pipelines.micro import OTHERS, STRAIGHT, Micro, cached, draw
from tests.reference import cached_by_hooks

MICROS = {**STRAIGHT, **OTHERS}
STEPS, INTERVAL = 5, 3
BRANCHES = (0, 1)

# Of those that draw noise, take two evaluations a step, and take several steps back; None: the pipeline's own.
SCHEDULERS = (None, "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "DPMSolverMultistepScheduler")
# Others stand their own scheduler alone.
OWN = ("ddpm", "ddim", "lcm", "lcm img2img")


@dataclass(frozen=True)
class Case:
    """One call."""

    seed: int
    height: int
    width: int
    batch: int
    guided: bool
    scheduler: str | None
    branch: int

    def __str__(self) -> str:
        words = f"seed {self.seed}-{self.height}x{self.width}-batch {self.batch}-{'guided' if self.guided else 'alone'}"
        return f"{words}-{self.scheduler or 'own'}-branch {self.branch}"


SIZES = ((64, 64), (128, 64))
# Each value of each of these, in few cases.
SOME = [
    Case(0, *SIZES[0], 1, True, SCHEDULERS[0], 0),
    Case(1, *SIZES[1], 3, True, SCHEDULERS[1], 1),
    Case(2, *SIZES[0], 3, False, SCHEDULERS[2], 0),
    Case(0, *SIZES[1], 1, False, SCHEDULERS[3], 1),
]
# Every combination of them, schedulers and branches in turn.
CALLS = itertools.product((0, 1, 2), SIZES, (1, 3), (True, False))
EVERY = SOME + [
    Case(seed, *size, batch, guided, SCHEDULERS[i // 2 % 4], BRANCHES[i % 2])
    for i, (seed, size, batch, guided) in enumerate(CALLS)
]


def cases(names: Any = MICROS) -> list[Any]:
    return [
        pytest.param(name, case, id=f"{name}-{case}", marks=[] if case in SOME else [pytest.mark.slow])
        for name in names
        for case in dict.fromkeys(EVERY)
        if name not in OWN or case.scheduler is None or case in SOME
    ]


@functools.cache
def pipelines(name: str) -> tuple[Any, Any]:
    """Plain and cached ones for all tests, which give them schedulers and parameters."""
    return MICROS[name].new(), cached(MICROS[name])


def drawn(name: str, pipe: Any, case: Case) -> torch.Tensor:
    micro = MICROS[name]
    pipe.scheduler = scheduler_of(name, micro, case)
    size = {"height": case.height, "width": case.width}
    call = micro.arguments(**size, batch=case.batch, guided=case.guided)
    return draw(pipe, micro, seed=case.seed, num_inference_steps=STEPS, **call)


def scheduler_of(name: str, micro: Micro, case: Case) -> Any:
    own = micro.new().scheduler
    if case.scheduler is None or name in OWN:
        return own
    return getattr(diffusers, case.scheduler).from_config(own.config, clip_sample=False, use_karras_sigmas=False)


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert expected.isfinite().all()
    # Random weights drive some samplers far from the scale of a picture.
    assert (found - expected).abs().max() <= 1e-4 * max(1, expected.abs().max() / 10)


@pytest.mark.parametrize(("name", "case"), cases())
def test_with_every_call_full_it_draws_what_plain_diffusers_draws(name: str, case: Case) -> None:
    plain, pipe = pipelines(name)
    pipe.set_cache_params(cache_interval=1, cache_branch_id=case.branch)
    assert_same(drawn(name, pipe, case), drawn(name, plain, case))


@pytest.mark.parametrize(("name", "case"), cases())
def test_cached_it_draws_what_hooks_on_the_model_draw(name: str, case: Case) -> None:
    plain, pipe = pipelines(name)
    pipe.set_cache_params(cache_interval=INTERVAL, cache_branch_id=case.branch)
    with cached_by_hooks(plain.unet, lambda call: call % INTERVAL == 0, branch=case.branch):
        expected = drawn(name, plain, case)
    assert_same(drawn(name, pipe, case), expected)
    assert (expected - drawn(name, plain, case)).abs().max() > 1e-3, "the cache does not reach the picture"


# Those that the DeepCache package knows; it looks timesteps up, which Heun's sampler repeats.
WITH_PACKAGE = [name for name in MICROS if MICROS[name].shares != "ddpm"]


@contextmanager
def package(pipe: Any, case: Case) -> Iterator[None]:
    helper = DeepCache.DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=INTERVAL, cache_branch_id=case.branch)
    helper.enable()
    try:
        yield
    finally:
        helper.disable()
        pipe.unet.__dict__.pop("forward", None)  # the package leaves one behind


@pytest.mark.parametrize(
    ("name", "case"),
    [param for param in cases(WITH_PACKAGE) if param.values[1].scheduler != "HeunDiscreteScheduler"],
)
def test_cached_it_draws_what_the_deepcache_package_draws(name: str, case: Case) -> None:
    plain, pipe = pipelines(name)
    pipe.set_cache_params(cache_interval=INTERVAL, cache_branch_id=case.branch)
    with package(plain, case):
        expected = drawn(name, plain, case)
    assert_same(drawn(name, pipe, case), expected)
