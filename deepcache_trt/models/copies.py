"""Copies of the modules of a live model: on its own tensors, on "meta", or on fake ones to be traced.

Of what others have put into the modules, a copy has what decides about its outputs: neither hooks nor what peft has
wrapped around a layer, nor what stands for its `forward` while it runs on engines.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from deepcache_trt.models.live_tree import HOOKS, kept_hooks, unwrapped


def fake_copy(model: torch.nn.Module) -> torch.nn.Module:
    """On fake tensors."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        fakes: dict[int, torch.Tensor] = {id(weight): _weight(weight, "cpu") for weight in model.parameters()}
        fakes |= {id(buffer): torch.empty(buffer.shape, dtype=buffer.dtype) for buffer in model.buffers()}
        return _copy(model, fakes).eval()


def meta_copy(model: torch.nn.Module) -> torch.nn.Module:
    """With weights on "meta"; its buffers have their values."""
    return _copy(model, {id(weight): _weight(weight, "meta") for weight in model.parameters()}).eval()


def sharing_copy(model: torch.nn.Module) -> torch.nn.Module:
    """On the very tensors of `model`."""
    return _copy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def _weight(like: torch.nn.Parameter, device: str) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.empty(like.shape, dtype=like.dtype, device=device), requires_grad=False)


def _copy(model: torch.nn.Module, tensors: Mapping[int, torch.Tensor]) -> torch.nn.Module:
    memo: dict[int, Any] = {
        id(vars(module)[hooks]): kept_hooks(module, hooks) for module in model.modules() for hooks in HOOKS
    }
    copied: torch.nn.Module = copy.deepcopy(model, memo | dict(tensors))
    for path, module in list(copied.named_modules()):
        if "forward" in vars(module):
            del module.forward
        if path and (inner := unwrapped(module)) is not module:
            parent, _, name = path.rpartition(".")
            setattr(copied.get_submodule(parent), name, inner)
    return copied
