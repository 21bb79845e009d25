"""Callbacks between the steps see, replace and stop what they see, replace and stop in plain diffusers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.callbacks import (
    MultiPipelineCallbacks,
    SDCFGCutoffCallback,
    SDXLCFGCutoffCallback,
    SDXLControlnetCFGCutoffCallback,
)

from tests.pipelines.families import (
    FAMILIES,
    FEW,
    INTERVAL,
    WITHIN,
    assert_like_plain,
    difference,
    drawn,
    every_family,
    expected,
    on_engines,
    outcome,
    plain_class,
)

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


# Pipelines show these, and do not look at them again between the steps; a mask where there are channels for it.
UNREAD = ("negative_", "add_neg_", "masked_image_latents", "mask")


def _is_read(name: str, tensor: str) -> bool:
    if tensor.startswith("mask"):
        return FAMILIES[name].unet.endswith("with a mask") or (name, tensor) == (PASTING, "mask")
    return not tensor.startswith(UNREAD)


PASTING = "sd inpaint without mask channels"


@pytest.mark.parametrize("change", [_replaced, _written])
@every_tensor
def test_what_a_callback_changes_counts_as_in_plain_diffusers(name: str, tensor: str, change: Any) -> None:
    """From the next step on, in all that the model is given: on a full step and on the cached ones after it."""
    changed = assert_like_plain(name, **change(tensor))
    effect = difference(changed, expected(name))
    if change is _replaced:
        assert (effect > 10 * WITHIN) == _is_read(name, tensor)
