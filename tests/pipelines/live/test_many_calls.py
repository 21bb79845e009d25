"""Calls whose sizes, steps, schedulers and policies change: nothing is left of them, in memory or in the system.

A few dozen in every run; as many as SOAK_CALLS says in `make soak`.
"""

import itertools
import os
from collections.abc import Callable
from typing import Any

import psutil
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

from tests.pipelines import micro

CALLS = int(os.environ.get("SOAK_CALLS", "60"))
# What grows in a few calls is a library's own arenas; in a thousand it would be ours.
MOST_GROWTH = 0.01 if CALLS >= 1000 else 0.03

SIZES = [(64, 64), (32, 48), (48, 32)]
STEPS = [2, 3, 5]
SCHEDULERS = [DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler]
POLICIES: list[dict[str, Any]] = [{"cache_interval": 2}, {"cache_interval": 3}, {"cache_interval": 1}]
MIXED = list(itertools.product(SIZES, STEPS, SCHEDULERS, POLICIES))


@pytest.mark.usefixtures("shared_sessions")
def test_nothing_is_left_of_calls(record_property: Callable[[str, object], None]) -> None:
    kind, process = micro.STRAIGHT["sd"], psutil.Process()
    pipe = micro.cached(kind, cache_interval=2, backend="onnxruntime")
    first: dict[int, torch.Tensor] = {}

    def draw(number: int) -> bool:
        """Whether it is the picture that the same call drew before."""
        which = number * 7 % len(MIXED)  # each call differs from the one before in all that can differ
        (height, width), steps, scheduler, policy = MIXED[which]
        pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
        pipe.set_cache_params(**policy)
        drawn = micro.draw(pipe, kind, num_inference_steps=steps, height=height, width=width)
        return torch.equal(first.setdefault(which, drawn), drawn)

    def held() -> tuple[int, int, int]:
        return process.num_fds(), process.num_threads(), len(process.children(recursive=True))

    warm = max(len(MIXED), CALLS // 5)
    wrong = sum(not draw(number) for number in range(warm))
    before, memory = held(), process.memory_info().rss
    wrong += sum(not draw(number) for number in range(warm, warm + CALLS))
    growth = process.memory_info().rss / memory - 1
    record_property("mixed calls drawn", warm + CALLS)
    record_property("of these with another picture", wrong)
    record_property("growth of memory in these", f"{growth:+.2%} after the first {warm}")
    assert wrong == 0
    assert growth < MOST_GROWTH
    assert held() == before
