"""The pipelines that the contract of diffusers is asked of, SD, SDXL and ControlNet, around U-Nets of one block."""

import functools
import inspect
from typing import Any

import diffusers
import pytest
import torch

from tests.pipelines.drawing import difference
from tests.pipelines.micro import OTHERS, STRAIGHT, Micro, cached, draw

FEW = 5  # full, cached, cached, full, cached
INTERVAL = 3
WITHIN = 1e-4  # of pictures whose latents are as large as theirs usually are


FAMILIES: dict[str, Micro] = {
    **{name: STRAIGHT[name] for name in ("sd", "sd img2img", "sd inpaint", "sd unmasked inpaint")},
    **{name: STRAIGHT[name] for name in ("sdxl", "sdxl img2img", "sdxl inpaint")},
    **{name: OTHERS[name] for name in ("sd controlnet", "sd controlnet img2img", "sd controlnet inpaint")},
    **{name: OTHERS[name] for name in ("sdxl controlnet", "sdxl controlnet img2img")},
}
every_family = pytest.mark.parametrize("name", FAMILIES)


def plain_class(name: str) -> Any:
    """The class of diffusers."""
    return getattr(diffusers, FAMILIES[name].pipeline)


def quiet(pipe: Any) -> Any:
    """The pipeline, without its progress bar."""
    pipe.set_progress_bar_config(disable=True)
    return pipe


def takes(name: str, argument: str) -> bool:
    """Whether calls of the pipeline have the argument."""
    return argument in inspect.signature(plain_class(name).__call__).parameters


@functools.cache
def plain(name: str) -> Any:
    """The pipeline of diffusers, one for all tests."""
    return FAMILIES[name].new()


@functools.cache
def on_engines(name: str) -> Any:
    """The cached pipeline, one for all tests; `drawn` gives it its parameters."""
    return cached(FAMILIES[name])


def embeddings(name: str) -> dict[str, torch.Tensor]:
    """The prompt "three" as the arguments that a call takes instead of a prompt."""
    names = ["prompt_embeds", "negative_prompt_embeds"]
    if "sdxl" in name:
        names += ["pooled_prompt_embeds", "negative_pooled_prompt_embeds"]
    arguments = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": True}
    return dict(zip(names, plain(name).encode_prompt("three", **arguments), strict=True))


def expected(name: str, **call: Any) -> torch.Tensor:
    """What plain diffusers makes of a call."""
    return draw(plain(name), FAMILIES[name], **{"num_inference_steps": FEW, **call})


def drawn(name: str, *, interval: int = INTERVAL, **call: Any) -> torch.Tensor:
    """What the cached pipeline makes of it."""
    pipe = on_engines(name)
    pipe.set_cache_params(cache_interval=interval)
    return draw(pipe, FAMILIES[name], **{"num_inference_steps": FEW, **call})


def tolerance(picture: torch.Tensor) -> float:
    """What rounding may change: random weights drive some samplers far from the scale of a picture."""
    return WITHIN * max(1, picture.abs().max().item() / 10)


def assert_like_plain(name: str, **call: Any) -> torch.Tensor:
    """A call draws what it draws in plain diffusers, and caching it changes that: the picture of plain diffusers."""
    picture = expected(name, **call)
    assert difference(drawn(name, interval=1, **call), picture) <= tolerance(picture)
    assert difference(drawn(name, **call), picture) > 1e-2
    return picture


def outcome(function: Any, *args: Any, **call: Any) -> tuple[str, Any]:
    """How a call ends: its value, or the class and text of its error."""
    try:
        return "value", function(*args, **call)
    except Exception as error:
        return type(error).__name__, str(error)
