"""Activations as a model runs in PyTorch: what each layer multiplies with its weight."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from deepcache_trt.export.quantize import LARGEST
from deepcache_trt.export.ranges import Magnitudes

_ATEN = torch.ops.aten

# How a model and what torch has traced of one call the layers that can be quantized: (input, weight, …).
_LAYERS = (
    *(torch.nn.functional.linear, torch.conv1d, torch.conv2d, torch.conv3d),
    *(_ATEN.linear.default, _ATEN.conv1d.default, _ATEN.conv2d.default, _ATEN.conv3d.default),
)


class _Observing(TorchFunctionMode):
    """In this thread, look at the first argument of each layer whose weight is known, by where that lies."""

    def __init__(self, names: Mapping[int, str], seen: dict[str, Magnitudes]) -> None:
        super().__init__()
        self._names, self._seen = names, seen

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # While torch traces, tensors are fake ones, which have no values.
        if function in _LAYERS and all(type(each) in (torch.Tensor, torch.nn.Parameter) for each in args[:2]):
            name = self._names.get(args[1].data_ptr())
            if name is not None:
                self._seen.setdefault(name, Magnitudes()).add(args[0])
        return function(*args, **(kwargs or {}))


@contextmanager
def observed(state: Mapping[str, torch.Tensor]) -> Iterator[dict[str, Magnitudes]]:
    """Within the block, whatever a model computes in this thread is looked at.

    Args:
        state: the model's state dict, the very tensors that it computes with.

    Yields:
        What the layers have been given, by the names of their weights; it is filled as they run.
    """
    seen: dict[str, Magnitudes] = {}
    names = {tensor.data_ptr(): name for name, tensor in state.items() if tensor.ndim >= 2}
    with _Observing(names, seen):
        yield seen


def scales(seen: Mapping[str, Magnitudes]) -> dict[str, float]:
    """The scale of each layer's activation, by the name of its weight."""
    return {name: seen[name].scale(LARGEST) for name in sorted(seen)}
