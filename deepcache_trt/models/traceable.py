"""A variant of a live model as a function that torch's compiler can trace as a whole."""

import copy
from collections.abc import Callable, Mapping

import torch

from deepcache_trt.models.part import Architecture
from deepcache_trt.models.processors import make_traceable
from deepcache_trt.models.taps import Variant, tap

Tensors = Mapping[str, torch.Tensor]


def traceable(model: torch.nn.Module, architecture: Architecture, variant: Variant) -> Callable[[Tensors], Tensors]:
    """The variant's inputs by name → its outputs by name, without a hook that comes or goes.

    Each function has modules of its own, which keep their hooks for as long as it lives, on the weights of `model`.
    """
    own = copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
    make_traceable(own)
    consumed: dict[str, torch.Tensor] = {}
    emitted: dict[str, torch.Tensor] = {}
    used = [tap for tap in architecture.taps if tap.name in (*variant.consumes, *variant.emits)]
    tap(own, used, consumed=consumed, emitted=emitted)

    def function(tensors: Tensors) -> Tensors:
        consumed.update({name: tensors[name] for name in variant.consumes})
        outputs = {**architecture.call(own, tensors), **{name: emitted[name] for name in variant.emits}}
        consumed.clear()
        emitted.clear()
        return outputs

    return function
