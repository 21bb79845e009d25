"""A variant of a live model as an engine."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from deepcache_trt.engines.backend import TensorFunction
from deepcache_trt.engines.engine import Engine, check_binding
from deepcache_trt.engines.torch.compiled import Compiled
from deepcache_trt.engines.torch.pruned import Pruned
from deepcache_trt.errors import BackendError
from deepcache_trt.tensors import TensorSpec

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)

Mode = Literal["eager", "prune", "compile"]


class TorchEngine(Engine):
    """A variant as a function of named tensors."""

    def __init__(
        self,
        function: TensorFunction,
        *,
        inputs: dict[str, TensorSpec],
        outputs: dict[str, TensorSpec],
        device: str,
        mode: Mode = "eager",
        otherwise: TensorFunction | None = None,
        capturable: bool = True,
        tunes: bool = False,
    ) -> None:
        """Nothing is traced or compiled before the first run.

        Args:
            function: gives `outputs`, and maybe more. To be pruned or compiled it must be one that torch can trace as a
                whole: it registers no hooks.
            inputs: what the function reads.
            outputs: what of its results is kept.
            device: "cpu" or "cuda".
            mode: "prune" traces at the first run for each shape; "compile" at the first run for its shapes, and at the
                first with others for all other shapes.
            otherwise: what runs instead where torch cannot trace the function; None: that is an error.
            tunes: whether the compiler looks for the fastest kernels, which takes many times as long.
            capturable: whether the function asks no tensor for its values once it has run at a shape.
        """
        self.inputs = inputs
        self.outputs = outputs
        self.capturable = capturable
        self.compiles_at_first_run = mode != "eager"
        self._function: TensorFunction | None = function
        if mode == "prune":
            self._function = Pruned(function)
        elif mode == "compile":
            self._function = Compiled(function, tunes=tunes)
        self._otherwise = otherwise
        self._device = device
        self._bound: dict[str, torch.Tensor] = {}

    def bind(self, name: str, tensor: "torch.Tensor") -> None:
        """Keep the tensor for the next `run`."""
        check_binding(self.inputs.get(name) or self.outputs[name], tensor, self._device)
        self._bound[name] = tensor

    def run(self) -> None:
        """Call the function on the bound inputs and copy what it returns into the bound outputs.

        Raises:
            BackendError: torch cannot compile the function on this machine.
        """
        import torch

        assert self._function is not None, "closed"
        with torch.no_grad():
            results = self._results({name: self._bound[name] for name in self.inputs})
            for name in self.outputs:
                self._bound[name].copy_(results[name])

    def close(self) -> None:
        """Drop the function, and with it the model and what was compiled."""
        self._bound.clear()
        self._function = self._otherwise = None

    def _results(self, tensors: Mapping[str, "torch.Tensor"]) -> Mapping[str, "torch.Tensor"]:
        from torch.utils._python_dispatch import _get_current_dispatch_mode

        assert self._function is not None
        # torch traces nothing for one who watches its operations, as a counter of FLOPs does.
        if self._otherwise is not None and _get_current_dispatch_mode() is not None:
            return self._otherwise(tensors)
        try:
            return self._function(tensors)
        except BackendError as error:
            if self._otherwise is None:
                raise
            _log.info("a cached step takes as long as a full one: %s", error)
            self._function, self._otherwise = self._otherwise, None
            return self._function(tensors)
