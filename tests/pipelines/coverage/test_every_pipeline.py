"""Each pipeline draws what plain diffusers draws, and cached what caching in plain PyTorch draws."""

import functools
from typing import Any

import pytest
import torch

from tests.pipelines.coverage.rows import EVERY, INTERVAL, OWN, SOME, STEPS, WITH_PACKAGE, Case
from tests.pipelines.micro import MICROS, cached, draw, like_the_own
from tests.reference import cached_by_hooks, cached_by_package


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
    pipe.scheduler = like_the_own(micro, None if name in OWN else case.scheduler)
    size = {"height": case.height, "width": case.width}
    call = micro.arguments(**size, batch=case.batch, guided=case.guided)
    return draw(pipe, micro, seed=case.seed, num_inference_steps=STEPS, **call)


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert expected.isfinite().all()
    # Random weights drive some samplers far from the scale of a picture.
    assert (found - expected).abs().max() <= 1e-4 * max(1, expected.abs().max().item() / 10)


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


# It looks timesteps up, which Heun's sampler repeats.
@pytest.mark.parametrize(
    ("name", "case"),
    [param for param in cases(WITH_PACKAGE) if param.values[1].scheduler != "HeunDiscreteScheduler"],
)
def test_cached_it_draws_what_the_deepcache_package_draws(name: str, case: Case) -> None:
    plain, pipe = pipelines(name)
    pipe.set_cache_params(cache_interval=INTERVAL, cache_branch_id=case.branch)
    with cached_by_package(plain, interval=INTERVAL, branch=case.branch):
        expected = drawn(name, plain, case)
    assert_same(drawn(name, pipe, case), expected)
