"""PyTorch: the model itself as an engine, eager, as the reference for every other backend, or compiled."""

import importlib.util
import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any, Literal

from deepcache_trt.engines.backend import Backend, Built, TensorFunction, keep_nothing, package_version, why_no_gpu
from deepcache_trt.engines.engine import Engine, check_binding
from deepcache_trt.errors import BackendError, of_compiler
from deepcache_trt.tensors import TensorSpec

if TYPE_CHECKING:
    import torch

Mode = Literal["eager", "compile"]


class TorchEngine(Engine):
    """A variant as a function of named tensors.

    Eager PyTorch cannot drop what a supplied tap makes superfluous, so a cached step costs as much as a full one here.
    The compiler drops it.
    """

    capturable = True  # compiled too, once it has run at the shapes to be captured

    def __init__(
        self,
        function: TensorFunction,
        *,
        inputs: dict[str, TensorSpec],
        outputs: dict[str, TensorSpec],
        device: str,
        mode: Mode = "eager",
    ) -> None:
        """Nothing is compiled before the first run.

        Args:
            function: gives `outputs`, and maybe more. To be compiled it must be one that torch can trace as a whole: it
                registers no hooks.
            inputs: what the function reads.
            outputs: what of its results is kept.
            device: "cpu" or "cuda".
            mode: "compile" compiles at the first run for its shapes, and at the first with others for all other shapes.
        """
        self.inputs = inputs
        self.outputs = outputs
        self._function: TensorFunction | None = function if mode == "eager" else Compiled(function)
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

        assert self._function is not None
        with torch.no_grad():
            results = self._function({name: self._bound[name] for name in self.inputs})
            for name in self.outputs:
                self._bound[name].copy_(results[name])

    def close(self) -> None:
        """Drop the function, and with it the model and what was compiled."""
        self._bound.clear()
        self._function = None


class Compiled:
    """A function of named tensors, compiled twice at most: for the first shapes that come, and for all the others.

    torch's own rule makes one axis dynamic at a time, and each compilation of a U-Net takes minutes.
    """

    def __init__(self, function: TensorFunction) -> None:
        self._for_first = _compile(function, dynamic=False)
        self._for_others = _compile(function, dynamic=True)
        self._first: list[torch.Size] | None = None

    def __call__(self, tensors: Mapping[str, "torch.Tensor"]) -> Mapping[str, "torch.Tensor"]:
        """Call what is compiled for these shapes, or compile for them.

        Raises:
            BackendError: torch cannot compile the function on this machine.
        """
        import torch

        shapes = [tensor.shape for tensor in tensors.values()]
        if self._first is None:
            self._first = shapes
        compiled = self._for_first if shapes == self._first else self._for_others
        try:
            # Else two axes that are of one size when it compiles, a square's, are one axis from then on.
            with torch.fx.experimental._config.patch(use_duck_shape=False):  # type: ignore[attr-defined]
                results: Mapping[str, torch.Tensor] = compiled(tensors)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise BackendError(f"torch.compile failed: {of_compiler(error)}") from error
        return results


def _compile(function: TensorFunction, *, dynamic: bool) -> Any:
    import torch

    def call(tensors: Mapping[str, "torch.Tensor"]) -> Mapping[str, "torch.Tensor"]:
        return function(tensors)

    # torch keeps what it compiled, and counts it up to a limit, by code object: each engine gets one of its own.
    own = FunctionType(call.__code__.replace(), call.__globals__, closure=call.__closure__)
    return torch.compile(own, fullgraph=True, dynamic=dynamic)


def _probe(device: str) -> str:
    """The version, and the name of the GPU."""
    import torch

    missing = why_no_gpu() if device == "cuda" else None
    if missing:
        raise BackendError(missing)
    return f"{torch.__version__}{f' on {torch.cuda.get_device_name()}' if device == 'cuda' else ''}"


def _probe_eager(device: str) -> str:
    return f"{_probe(device)}; the reference: no faster than plain"


def _probe_compiled(device: str) -> str:
    """torch's compiler needs another one: triton on a GPU, of C++ on a CPU."""
    detail = _probe(device)
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        raise BackendError("triton is not installed; pip install triton")
    if device == "cpu" and not any(map(shutil.which, (os.environ.get("CXX") or "g++", "clang++"))):
        raise BackendError("no C++ compiler; install g++")
    return detail


def _open(device: str, mode: Mode, built: Built) -> TorchEngine:
    make = built.variant.eager
    if mode == "compile" and built.variant.traceable is not None:
        make = built.variant.traceable
    else:
        mode = "eager"
    inputs = {**built.inputs, **built.variant.inputs}
    return TorchEngine(make(), inputs=inputs, outputs=dict(built.outputs), device=device, mode=mode)


def _backend(name: str, device: str, mode: Mode, probe: Callable[[str], str]) -> Backend:
    return Backend(
        name=name,
        device=device,
        probe=partial(probe, device),
        version=partial(package_version, "torch"),
        build=keep_nothing,
        open=partial(_open, device, mode),
        packages=("torch",),
        trusted=True,
        runs_model=True,
        bit_exact=mode == "eager",
    )


EAGER_CPU, EAGER_CUDA = (_backend("torch", device, "eager", _probe_eager) for device in ("cpu", "cuda"))
COMPILED_CPU, COMPILED_CUDA = (
    _backend("torch-compile", device, "compile", _probe_compiled) for device in ("cpu", "cuda")
)
