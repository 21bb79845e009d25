"""Tensors that say that they are on a GPU, and what passes between it and the host: it can be counted without one.

They lie on the CPU, and their operations run there. What torch would wait for on a GPU, and what it would copy from or
to the host, is noted; what CUDA refuses, an operation on tensors of two devices, is an error.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda", 0)
CPU = torch.device("cpu")

# How a tensor tells where it is.
_PLACE = {torch.Tensor.device.__get__: GPU, torch.Tensor.is_cuda.__get__: True, torch.Tensor.is_cpu.__get__: False}  # type: ignore[attr-defined]

# What asks for values.
_VALUES = {
    *(torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.__bool__, torch.Tensor.__float__, torch.Tensor.__int__),
    *(torch.Tensor.numpy, torch.Tensor.__index__, torch.Tensor.__repr__, torch.equal, torch.Tensor.equal),
}


class OnGpu(torch.Tensor):
    """A tensor on the GPU that is not there."""


class _Gpu(TorchFunctionMode):
    """Sees every call of torch."""

    def __init__(self, counts: "Counter[str]") -> None:
        super().__init__()
        self._counts = counts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        on_gpu = any(isinstance(leaf, OnGpu) for leaf in tree_leaves((args, kwargs)))
        if on_gpu and func in _PLACE:
            return _PLACE[func]
        if func in _VALUES and on_gpu:
            self._counts["waits for values"] += 1
            return func(*tree_map(_plain, args), **tree_map(_plain, kwargs))
        if func in (torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda, torch.Tensor.copy_):
            return self._moved(func, args, kwargs)
        device = kwargs.pop("device", None)
        kwargs.pop("pin_memory", None)
        if device is None and on_gpu:
            self._refuse_mixed(func, args, kwargs)
        goes_there = on_gpu if device is None else torch.device(device).type == "cuda"
        given = func(*tree_map(_plain, args), **tree_map(_plain, kwargs))
        is_in_place = func.__name__.endswith("_") and not func.__name__.endswith("__")
        if is_in_place and args and isinstance(args[0], OnGpu):
            return args[0]
        return tree_map(_there, given) if goes_there else given

    def _moved(self, func: Any, args: Any, kwargs: Any) -> Any:
        """`to`, `cpu`, `cuda` and `copy_`."""
        tensor, *rest = args
        is_waited_for = not kwargs.get("non_blocking", False)
        if func is torch.Tensor.copy_:
            self._note(isinstance(rest[0], OnGpu), isinstance(tensor, OnGpu), is_waited_for)
            _plain(tensor).copy_(_plain(rest[0]))
            return tensor
        named = [kwargs.pop("device", None), *rest]
        places = [torch.device(each) for each in named if isinstance(each, (str, torch.device))]
        places += [GPU if isinstance(each, OnGpu) else CPU for each in rest if isinstance(each, torch.Tensor)]
        places += [CPU] if func is torch.Tensor.cpu else [GPU] if func is torch.Tensor.cuda else []
        was_there = isinstance(tensor, OnGpu)
        is_there = places[0].type == "cuda" if places else was_there
        self._note(was_there, is_there, is_waited_for)
        others = [_plain(each) for each in rest if not isinstance(each, (str, torch.device))]
        moved = _plain(tensor).to(*others, **kwargs) if func is torch.Tensor.to else _plain(tensor).clone()
        moved = moved.clone() if was_there != is_there and moved is tensor else moved
        return _there(moved) if is_there else moved

    def _note(self, was_there: bool, is_there: bool, is_waited_for: bool) -> None:
        if was_there != is_there:
            way = "from the host" if is_there else "to the host"
            self._counts[way if is_waited_for else f"{way}, without waiting"] += 1

    def _refuse_mixed(self, func: Any, args: Any, kwargs: Any) -> None:
        """But for numbers, tensors without axes, which CUDA takes from anywhere."""
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, torch.Tensor) and not isinstance(leaf, OnGpu) and leaf.ndim:
                raise AssertionError(f"{func} of tensors on two devices")


def _plain(leaf: Any) -> Any:
    return leaf.as_subclass(torch.Tensor) if isinstance(leaf, OnGpu) else leaf


def _there(leaf: Any) -> Any:
    return leaf.as_subclass(OnGpu) if type(leaf) is torch.Tensor else leaf


@contextmanager
def pretended_gpu() -> Iterator["Counter[str]"]:
    """Within the block `device="cuda"` gives such tensors; yields how often each thing happened."""
    counts: Counter[str] = Counter()
    with pytest.MonkeyPatch.context() as patch, _Gpu(counts):
        patch.setattr(torch.cuda, "device", lambda device: nullcontext())
        yield counts
