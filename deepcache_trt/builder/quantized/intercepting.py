"""The layers of a model as it runs in PyTorch, one call at a time."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_ATEN = torch.ops.aten

# How a model and what torch has traced of one call the layers that can be quantized: (input, weight, …).
_LAYERS = (
    *(torch.nn.functional.linear, torch.conv1d, torch.conv2d, torch.conv3d),
    *(_ATEN.linear.default, _ATEN.conv1d.default, _ATEN.conv2d.default, _ATEN.conv3d.default),
)

# Runs a layer: the name of its weight, what computes it, and that one's arguments, (input, weight, …).
RunLayer = Callable[[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


class Intercepted(TorchFunctionMode):
    """In this thread, each layer whose weight is known is run by a function; a layer is known by where its weight lies.

    Args:
        state: the model's state dict, the very tensors that it computes with.
        run: stands for the layers.
    """

    def __init__(self, state: Mapping[str, torch.Tensor], run: RunLayer) -> None:
        super().__init__()
        self._names = {tensor.data_ptr(): name for name, tensor in state.items() if tensor.ndim >= 2}
        self._run = run

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # While torch traces, tensors are fake ones, which have no values.
        if function in _LAYERS and all(type(each) in (torch.Tensor, torch.nn.Parameter) for each in args[:2]):
            name = self._names.get(args[1].data_ptr())
            if name is not None:
                return self._run(name, function, args, kwargs or {})
        return function(*args, **(kwargs or {}))
