"""The check of `gpu_check` that draws with the whole loop: what was recorded must draw what was not."""

import time
from typing import Any

import numpy as np
import torch

from deepcache_trt.benchmarks.gpu_check.checks.subject import Subject, draw
from deepcache_trt.benchmarks.gpu_check.rows import Row
from deepcache_trt.builder.trust import TOLERANCE, relative_error
from deepcache_trt.runtime.cuda_graph import Recorded

_INTERVALS = (3, 5, 3)
_STEPS = 20
_DRAWS = ("first", "second", "third")


def loop(subject: Subject) -> list[Row]:
    """Two plans and two schedulers in turn: per step, launched one by one, and as one CUDA graph."""
    from diffusers import EulerAncestralDiscreteScheduler

    from deepcache_trt import DeepCachePipeline

    pipe = DeepCachePipeline.from_pipe(
        subject.pipe, backend=subject.backend, store=subject.target.store.root, components=()
    )
    schedulers = [pipe.scheduler, EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)]
    errors: dict[str, float] = {}
    seconds: dict[str, float] = {}
    ways: set[str] = set()
    try:
        for scheduler in schedulers:
            pipe.scheduler = scheduler
            for interval in _INTERVALS:
                pipe.set_cache_params(cache_interval=interval)
                expected = _latents(subject, pipe, callback_on_step_end=lambda *given: given[-1])
                for number in _DRAWS:  # the first one may launch one by one, and record
                    started = time.perf_counter()
                    latents = _latents(subject, pipe)
                    ways.add(pipe.last_run.way)
                    seconds[number] = time.perf_counter() - started
                    error = relative_error(latents, expected)
                    errors[number] = float(np.maximum(error, errors.get(number, 0.0)))  # NaN stays, unlike in max()
        recorded = pipe.last_run.recorded
    finally:
        pipe.disable_cache()
    return [_row(subject, errors, seconds, ways, recorded)]


def _row(
    subject: Subject,
    errors: dict[str, float],
    seconds: dict[str, float],
    ways: set[str],
    recorded: Recorded | None,
) -> Row:
    limit = TOLERANCE[subject.dtype]
    detail = ", ".join(f"{number} draw {error:.1e}" for number, error in errors.items())
    detail = f"{detail} of the norm from the pipeline's own loop, limit {limit:g}"
    if recorded is None:
        detail += "; launched one by one" + ("" if subject.on_gpu else ": no GPU")
    else:
        detail += f"; {recorded.units} units recorded, {recorded.plans} plans composed of them"
    counts = None if recorded is None else {"units": recorded.units, "plans": recorded.plans}
    passed = ways == {"whole loop"} and all(error <= limit for error in errors.values())
    passed = passed and (recorded is None or recorded.units > 0)
    return subject.row("loop", passed, detail, relative_error=errors, seconds=seconds, recorded=counts)


def _latents(subject: Subject, pipe: Any, **call: Any) -> torch.Tensor:
    latents: torch.Tensor = draw(subject, pipe, output_type="latent", num_inference_steps=_STEPS, **call)
    return latents.float().cpu()
