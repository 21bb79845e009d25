"""A variant of a live model as a function that torch's compiler can trace as a whole."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from deepcache_trt.models.architecture import Architecture
from deepcache_trt.models.copies import sharing_copy
from deepcache_trt.models.ip_adapter import SCALES, scale_adapters
from deepcache_trt.models.processors import free_of_batch
from deepcache_trt.models.taps import Variant, tap

Tensors = Mapping[str, torch.Tensor]

# A U-Net whose down-sampling did not divide the latents' size tells its up-samplers the sizes of its skip connections.
# With more of them than any size can be divided by, it always does.
_MANY_UPSAMPLERS = 30


def make_traceable(model: Any) -> None:
    """Change a model that nobody else uses so that it computes the same without a branch on a size."""
    free_of_batch(model)
    if hasattr(model, "num_upsamplers"):
        model.num_upsamplers = _MANY_UPSAMPLERS


def traceable(model: torch.nn.Module, architecture: Architecture, variant: Variant) -> Callable[[Tensors], Tensors]:
    """The variant's inputs by name → its outputs by name, without a hook that comes or goes.

    Each function has modules of its own, which keep their hooks for as long as it lives, on the weights of `model`.
    """
    own = sharing_copy(model)
    make_traceable(own)
    consumed: dict[str, torch.Tensor] = {}
    emitted: dict[str, torch.Tensor] = {}
    used = [tap for tap in architecture.taps if tap.name in (*variant.consumes, *variant.emits)]
    scales: dict[str, torch.Tensor] = {}
    scale_adapters(own, scales)
    tap(own, used, consumed=consumed, emitted=emitted)

    def function(tensors: Tensors) -> Tensors:
        consumed.update({name: tensors[name] for name in variant.consumes})
        scales.update({name: tensors[name] for name in tensors if name == SCALES})
        given = {name: tensor for name, tensor in tensors.items() if name != SCALES}
        outputs = {**architecture.call(own, given), **{name: emitted[name] for name in variant.emits}}
        if variant.outputs is not None:
            outputs = {name: outputs[name] for name in (*variant.outputs, *variant.emits)}
        consumed.clear()
        scales.clear()
        emitted.clear()
        return outputs

    return function
