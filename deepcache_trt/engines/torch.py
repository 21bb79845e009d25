"""PyTorch eager: the model itself as an engine. The reference for every other backend."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from deepcache_trt.engines.engine import Engine, check_binding
from deepcache_trt.tensors import TensorSpec

if TYPE_CHECKING:
    import torch

TensorFunction = Callable[[Mapping[str, "torch.Tensor"]], Mapping[str, "torch.Tensor"]]


class TorchEngine(Engine):
    """A variant as a function of named tensors.

    Eager PyTorch cannot drop what a supplied tap makes superfluous, so a cached step costs as much as a full one here.
    """

    capturable = True

    def __init__(
        self,
        function: TensorFunction,
        *,
        inputs: dict[str, TensorSpec],
        outputs: dict[str, TensorSpec],
        device: str,
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self._function: TensorFunction | None = function
        self._device = device
        self._bound: dict[str, torch.Tensor] = {}

    def bind(self, name: str, tensor: "torch.Tensor") -> None:
        """Keep the tensor for the next `run`."""
        check_binding(self.inputs.get(name) or self.outputs[name], tensor, self._device)
        self._bound[name] = tensor

    def run(self) -> None:
        """Call the function on the bound inputs and copy what it returns into the bound outputs."""
        assert self._function is not None
        results = self._function({name: self._bound[name] for name in self.inputs})
        for name in self.outputs:
            self._bound[name].copy_(results[name])

    def close(self) -> None:
        """Drop the function, and with it the model."""
        self._bound.clear()
        self._function = None
