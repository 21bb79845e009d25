"""Calls in a row never leak state: whatever came before, a call makes what a pipeline makes that was never called.

Two pipelines that share all components, schedulers too, are called in turns: from a text, and from an image.
"""

import contextlib
import functools
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import diffusers
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import deepcache_trt.pipelines
from tests.pipelines.loop.bars import watch_bars
from tests.pipelines.micro import STRAIGHT, cached

SIZES = [(64, 64), (128, 64), (64, 128)]
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "DDIM": ("DDIMScheduler", {"clip_sample": False}),
    "Euler ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "PNDM": ("PNDMScheduler", {"skip_prk_steps": True}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "no table": ("DDIMScheduler", {"clip_sample": True}),
}
GUIDANCE: dict[str, dict[str, float]] = {
    "off": {"guidance_scale": 1.0},
    "on": {"guidance_scale": 5.0},
    "rescaled": {"guidance_scale": 5.0, "guidance_rescale": 0.7},
}


class StoppedError(Exception):
    """An error in the user's own code."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a pipeline.

    Attributes:
        strength: of a call from an image; None: from a text.
        python: what happens between the steps: "" nothing, so that the whole loop may run; "looks" a callback that
            changes nothing, "edits" one that changes the latents, "stops" one that interrupts the pipeline as diffusers
            has it; "fails" one that raises; "ctrl-c" a KeyboardInterrupt, in whichever way the call is run.
        at: the step of what happens.
    """

    size: tuple[int, int]
    images: int
    steps: int
    scheduler: str
    guidance: str
    interval: int
    branch: int
    strength: float | None
    python: str
    at: int
    seed: int


@st.composite
def calls(draw: Any, schedulers: Sequence[str]) -> Call:
    call = Call(
        size=draw(st.sampled_from(SIZES)),
        images=draw(st.integers(1, 2)),
        steps=draw(st.integers(1, 6)),
        scheduler=draw(st.sampled_from(schedulers)),
        guidance=draw(st.sampled_from(list(GUIDANCE))),
        interval=draw(st.integers(1, 4)),
        branch=draw(st.integers(0, 1)),
        strength=draw(st.sampled_from([None, None, 1.0, 0.7, 0.4])),
        python=draw(st.sampled_from(["", "", "", "looks", "edits", "stops", "fails", "ctrl-c"])),
        at=draw(st.integers(0, 3)),
        seed=draw(st.integers(0, 1)),
    )
    assume(call.strength is None or int(call.strength * call.steps) >= 1)  # else nothing is left to denoise
    return call


@st.composite
def sequences(draw: Any) -> list[Call]:
    """Of two kinds of scheduler, so that most are met again with what earlier calls have left in them."""
    schedulers = draw(st.lists(st.sampled_from(list(SCHEDULERS)), min_size=2, max_size=2, unique=True))
    sequence: list[Call] = draw(st.lists(calls(schedulers), min_size=2, max_size=4))
    return sequence


class Pipelines:
    """The two pipelines, and one scheduler of each kind for both of them."""

    def __init__(self, family: str) -> None:
        self._text = cached(STRAIGHT[family])
        diffusers_class = STRAIGHT[f"{family} img2img"].pipeline
        image_class = getattr(deepcache_trt.pipelines, f"DeepCache{diffusers_class}")
        self._image = image_class.from_pipe(self._text, backend="onnxruntime", components=())
        self._image.set_progress_bar_config(disable=True)
        assert self._image.scheduler is self._text.scheduler
        own = self._text.scheduler.config
        self._schedulers = {
            name: getattr(diffusers, kind).from_config(own, **options) for name, (kind, options) in SCHEDULERS.items()
        }

    def draw(self, call: Call) -> torch.Tensor | None:
        """Latents [B, 4, H/8, W/8], or None where the call does not come to its end."""
        pipe = self._text if call.strength is None else self._image
        self._text.scheduler = self._image.scheduler = self._schedulers[call.scheduler]
        pipe.set_cache_params(cache_interval=call.interval, cache_branch_id=call.branch)
        arguments = {
            "prompt": ["a handwritten seven", "three"][: call.images],
            "num_inference_steps": call.steps,
            "generator": torch.Generator().manual_seed(call.seed),
            "output_type": "latent",
            **GUIDANCE[call.guidance],
            **self._from(call),
        }
        if "guidance_rescale" not in inspect.signature(type(pipe).__call__).parameters:
            arguments.pop("guidance_rescale", None)
        if call.python in ("looks", "edits", "stops", "fails"):
            arguments["callback_on_step_end"] = _callback(call)
        with contextlib.suppress(StoppedError, KeyboardInterrupt), _bar_that_fails(call):
            latents: torch.Tensor = pipe(**arguments).images
            return latents
        return None

    def _from(self, call: Call) -> dict[str, Any]:
        height, width = call.size
        if call.strength is None:
            return {"height": height, "width": width}
        image = torch.rand(call.images, 3, height, width, generator=torch.Generator().manual_seed(call.seed))
        return {"image": image, "strength": call.strength}


def _callback(call: Call) -> Any:
    def callback(pipe: Any, i: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if i < call.at:
            return tensors
        if call.python == "fails":
            raise StoppedError
        if call.python == "stops":
            pipe._interrupt = True
        if call.python == "edits":
            tensors["latents"] = 0.9 * tensors["latents"]
        return tensors

    return callback


@contextlib.contextmanager
def _bar_that_fails(call: Call) -> Iterator[None]:
    """Ctrl-C at some step: both ways move the progress bar."""
    if call.python != "ctrl-c":
        yield
        return
    moved = 0

    def fail(steps: int) -> None:
        nonlocal moved
        moved += 1
        if moved > call.at:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        watch_bars(patch, fail)
        yield


@functools.cache
def alone(family: str, call: Call) -> torch.Tensor | None:
    """What pipelines that were never called make."""
    return Pipelines(family).draw(call)


def assert_the_pipelines_own_loop_agrees(family: str, call: Call, latents: torch.Tensor) -> None:
    """It knows nothing of what this process has kept of other pipelines' calls, as tables."""
    own = alone(family, replace(call, python="looks"))
    assert own is not None
    assert (latents - own).abs().max() <= 1e-5 * own.abs().max()


@pytest.mark.parametrize(
    ("family", "examples"),
    [
        ("sd", 30),
        pytest.param("sd", 300, marks=pytest.mark.slow),
        pytest.param("sdxl", 100, marks=pytest.mark.slow),
    ],
)
def test_a_call_makes_what_it_makes_alone(family: str, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, derandomize=True)
    @given(sequence=sequences())
    def in_a_row(sequence: list[Call]) -> None:
        used = Pipelines(family)
        for call in sequence:
            latents, expected = used.draw(call), alone(family, call)
            assert (latents is None) == (expected is None)
            if latents is not None and expected is not None:
                assert torch.equal(latents, expected)
                if call.python == "":
                    assert_the_pipelines_own_loop_agrees(family, call, latents)

    in_a_row()
