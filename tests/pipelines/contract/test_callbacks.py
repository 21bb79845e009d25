"""Callbacks between the steps see, replace and stop what they see, replace and stop in plain diffusers."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.callbacks import (
    MultiPipelineCallbacks,
    PipelineCallback,
    SDCFGCutoffCallback,
    SDXLCFGCutoffCallback,
    SDXLControlnetCFGCutoffCallback,
)

from tests.pipelines.contract.families import (
    FAMILIES,
    FEW,
    WITHIN,
    assert_like_plain,
    drawn,
    every_family,
    expected,
    on_engines,
    outcome,
    plain_class,
)
from tests.pipelines.drawing import difference

Tensors = dict[str, Any]
TENSORS = [(name, tensor) for name in FAMILIES for tensor in plain_class(name)._callback_tensor_inputs]
every_tensor = pytest.mark.parametrize(("name", "tensor"), TENSORS)


def seen_by_a_callback(
    draw: Callable[..., torch.Tensor], name: str, tensor: str, **call: Any
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The picture of a call, and what a callback was shown after each of its steps."""
    seen: list[torch.Tensor] = []

    def look(pipe: Any, i: int, t: Any, tensors: Tensors) -> Tensors:
        seen.append(tensors[tensor].clone())
        return tensors

    return draw(name, callback_on_step_end=look, callback_on_step_end_tensor_inputs=[tensor], **call), seen


@every_tensor
def test_a_callback_is_shown_what_plain_diffusers_shows_it(name: str, tensor: str) -> None:
    _, theirs = seen_by_a_callback(expected, name, tensor)
    picture, ours = seen_by_a_callback(drawn, name, tensor, interval=1)
    assert len(theirs) == len(ours) == len(on_engines(name).last_run.plan)
    for their, our in zip(theirs, ours, strict=True):
        assert their.dtype == our.dtype
        assert difference(our.float(), their.float()) <= WITHIN
    if tensor == "latents":
        assert torch.equal(picture, ours[-1])


def _replaced(tensor: str) -> dict[str, Any]:
    def replace(pipe: Any, i: int, t: Any, tensors: Tensors) -> Tensors:
        return {tensor: 3 * tensors[tensor]} if i == 1 else {}

    return {"callback_on_step_end": replace, "callback_on_step_end_tensor_inputs": [tensor]}


def _written(tensor: str) -> dict[str, Any]:
    def write(pipe: Any, i: int, t: Any, tensors: Tensors) -> Tensors:
        if i == 1:
            tensors[tensor].mul_(3)
        return {}

    return {"callback_on_step_end": write, "callback_on_step_end_tensor_inputs": [tensor]}


@functools.cache
def unchanged(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What plain diffusers and the cached pipeline draw without a callback."""
    return expected(name), drawn(name)


PASTING = "sd unmasked inpaint"


def _is_read(name: str, tensor: str) -> bool:
    """Whether the pipeline looks at it again between two steps; the others it only shows."""
    if tensor.startswith("mask"):
        return FAMILIES[name].unet.endswith("with a mask") or (name, tensor) == (PASTING, "mask")
    return not tensor.startswith(("negative_", "add_neg_"))


@every_tensor
def test_what_a_callback_replaces_counts_from_the_next_step_on(name: str, tensor: str) -> None:
    call = _replaced(tensor)
    pictures = (assert_like_plain(name, **call), drawn(name, **call))
    effects = [difference(*pair) for pair in zip(pictures, unchanged(name), strict=True)]
    assert [effect > 10 * WITHIN for effect in effects] == 2 * [_is_read(name, tensor)]


@pytest.mark.parametrize(("name", "tensor"), [case for case in TENSORS if case[0] in ("sd", "sdxl", "sd controlnet")])
def test_a_callback_may_write_in_place(name: str, tensor: str) -> None:
    assert_like_plain(name, **_written(tensor))


@every_family
def test_the_last_word_on_the_latents_is_the_callbacks(name: str) -> None:
    def end(pipe: Any, i: int, t: Any, tensors: Tensors) -> Tensors:
        return {"latents": torch.zeros_like(tensors["latents"])} if i == pipe.num_timesteps - 1 else {}

    assert not drawn(name, callback_on_step_end=end).any()


@every_family
def test_a_tensor_that_the_pipeline_does_not_show_is_refused_by_it(name: str) -> None:
    call = {**_replaced("latents"), "callback_on_step_end_tensor_inputs": ["noise"]}
    kind, text = outcome(expected, name, **call)
    assert kind == "ValueError"
    assert outcome(drawn, name, **call) == (kind, text)


@every_family
def test_an_interrupt_leaves_the_latents_of_its_step(name: str) -> None:
    at = 1

    def stop(pipe: Any, i: int, t: Any, tensors: Tensors) -> Tensors:
        pipe._interrupt = i == at
        return {}

    call: dict[str, Any] = {"callback_on_step_end": stop}
    stopped = expected(name, **call)
    assert difference(drawn(name, interval=1, **call), stopped) <= WITHIN
    assert difference(stopped, unchanged(name)[0]) > 10 * WITHIN
    _, seen = seen_by_a_callback(drawn, name, "latents")
    assert torch.equal(drawn(name, **call), seen[at]), "the cached steps up to there are those of a whole run"
    assert difference(drawn(name), seen[-1]) <= WITHIN, "the next image comes to its end"


@pytest.mark.filterwarnings("ignore:`callback(_steps)?` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", [name for name in FAMILIES if "controlnet" in name])
def test_the_old_callback_sees_the_latents_of_every_step(name: str) -> None:
    def seen(draw: Callable[..., torch.Tensor], **options: Any) -> list[torch.Tensor]:
        latents: list[torch.Tensor] = []
        draw(name, callback=lambda i, t, now: latents.append(now), callback_steps=1, **options)
        return latents

    for theirs, ours in zip(seen(expected), seen(drawn, interval=1), strict=True):
        assert difference(ours, theirs) <= WITHIN
    assert len(seen(drawn)) == len(on_engines(name).last_run.plan) > 1


# Guidance that ends on the way, as the callbacks do that come with diffusers: the batch shrinks.

CUTS = {"sd": SDCFGCutoffCallback, "sd img2img": SDCFGCutoffCallback, "sdxl": SDXLCFGCutoffCallback}
CUTS |= {"sdxl img2img": SDXLCFGCutoffCallback, "sdxl controlnet": SDXLControlnetCFGCutoffCallback}


def _cut(name: str) -> dict[str, Any]:
    kind = CUTS.get(name, SDXLCFGCutoffCallback if "sdxl" in name else SDCFGCutoffCallback)
    return {"callback_on_step_end": kind(cutoff_step_index=1, cutoff_step_ratio=None)}


@pytest.mark.parametrize("name", CUTS)
def test_guidance_may_end_on_the_way(name: str) -> None:
    assert difference(assert_like_plain(name, **_cut(name)), unchanged(name)[0]) > 1e-2


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in CUTS])
def test_guidance_does_not_end_on_the_way_where_it_does_not_in_plain_diffusers(name: str) -> None:
    """These pipelines go on with a mask or a control image for the larger batch."""
    assert outcome(expected, name, **_cut(name))[0] == "RuntimeError"
    assert outcome(drawn, name, **_cut(name))[0] in ("RuntimeError", "ShapeError")
    assert_like_plain(name)


def test_several_callbacks_are_called_in_turn() -> None:
    calls: list[str] = []

    class Noting(PipelineCallback):
        @property
        def tensor_inputs(self) -> list[str]:
            return ["latents"]

        def callback_fn(self, pipeline: Any, step_index: int, timestep: Any, callback_kwargs: Tensors) -> Tensors:
            calls.append(f"{self.config['cutoff_step_index']}")
            return callback_kwargs

    both = MultiPipelineCallbacks([Noting(cutoff_step_index=step, cutoff_step_ratio=None) for step in (1, 2)])
    assert torch.equal(drawn("sd", callback_on_step_end=both), seen_by_a_callback(drawn, "sd", "latents")[0])
    assert calls == ["1", "2"] * FEW
