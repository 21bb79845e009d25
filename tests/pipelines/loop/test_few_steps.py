"""Models that draw in one to eight steps, distilled to do without guidance: SDXL-Turbo and LCM."""

import functools
import logging
from typing import Any

import pytest
from diffusers import EulerDiscreteScheduler

from tests.pipelines.drawing import difference
from tests.pipelines.micro import STRAIGHT, cached, draw
from tests.reference import cached_by_hooks

LOGGER = "deepcache_trt.pipelines.cached_denoiser"
TURBO: dict[str, Any] = {"guidance_scale": 0.0}  # as the card of SDXL-Turbo says
# LCM gives its U-Net the guidance scale, as `timestep_cond`.
MODELS = {
    "sdxl": (TURBO, (1, 2, 3, 4)),
    "lcm": ({}, (4, 8)),
}
CASES = [
    pytest.param(name, steps, interval, id=f"{name}-{steps}-{interval}")
    for name, (_, counts) in MODELS.items()
    for steps in counts
    for interval in (1, 2, 3)
]


def with_its_scheduler(name: str, pipe: Any) -> Any:
    if name == "sdxl":
        pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    return pipe


@functools.cache
def engines(name: str) -> Any:
    return with_its_scheduler(name, cached(STRAIGHT[name]))


@pytest.mark.parametrize(("name", "steps", "interval"), CASES)
def test_a_few_steps_are_cached_as_by_hooks(name: str, steps: int, interval: int) -> None:
    micro, call = STRAIGHT[name], {**MODELS[name][0], "num_inference_steps": steps}
    reference, pipe = with_its_scheduler(name, micro.new()), engines(name)
    pipe.set_cache_params(cache_interval=interval)
    found = draw(pipe, micro, **call)
    with cached_by_hooks(reference.unet, lambda call: call % interval == 0):
        expected = draw(reference, micro, **call)
    assert difference(found, expected) <= 1e-4
    assert pipe.last_run.way == "whole loop", pipe.last_run.reason
    assert len(pipe.last_run.plan) == steps
    changes = difference(draw(reference, micro, **call), expected) > 1e-3
    assert changes == (interval > 1 and steps > 1)


def told(caplog: pytest.LogCaptureFixture, pipe: Any, **call: Any) -> list[str]:
    """What one call says about its few steps."""
    caplog.clear()
    with caplog.at_level(logging.INFO, logger=LOGGER):
        draw(pipe, STRAIGHT["sdxl"], **TURBO, **call)
    return [record.getMessage() for record in caplog.records if record.name == LOGGER]


def test_the_log_tells_once_what_caching_can_gain(caplog: pytest.LogCaptureFixture) -> None:
    pipe = with_its_scheduler("sdxl", cached(STRAIGHT["sdxl"], cache_interval=3))
    says = "StableDiffusionXLPipeline unet: 2 of 4 calls are full: even if the others cost nothing, "
    (line,) = told(caplog, pipe, num_inference_steps=4)
    assert line == says + "the denoiser is at most 2.0 times as fast"
    assert told(caplog, pipe, num_inference_steps=4) == []
    (line,) = told(caplog, pipe, num_inference_steps=1)
    assert line.endswith("unet: every call is full, nothing is reused")
    (line,) = told(caplog, pipe, num_inference_steps=8)
    assert "3 of 8 calls are full" in line
    assert told(caplog, pipe, num_inference_steps=9) == []
