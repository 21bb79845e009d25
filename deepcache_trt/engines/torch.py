"""PyTorch: the model itself as an engine, eager, as the reference for every other backend, or compiled.

Eager PyTorch computes whatever `forward` says, also what a supplied tap makes superfluous. So a cached variant is
traced, and what nothing depends on is dropped: the layers that are left run as they did, no kernel is compiled.
"""

import importlib.util
import logging
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any, Literal

from deepcache_trt.engines.backend import (
    Backend,
    BuildOptions,
    Built,
    TensorFunction,
    keep_nothing,
    package_version,
    why_no_gpu,
)
from deepcache_trt.engines.engine import Engine, check_binding
from deepcache_trt.errors import BackendError, first_line, of_compiler
from deepcache_trt.tensors import TensorSpec

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)

Mode = Literal["eager", "prune", "compile"]

# Traces of an engine that are kept; each is a list of operations, on the weights that all of them share.
_SHAPES_KEPT = 32

# The optimization level from which torch's compiler times several kernels for each operation and takes the fastest; it
# records no CUDA graphs of its own, since the loop does.
_TUNING_LEVEL = 4
_TUNING = "max-autotune-no-cudagraphs"


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


class Pruned:
    """A function of named tensors without the operations that nothing depends on, each as eager PyTorch has it.

    It is traced on fake tensors for each shape that comes, which takes a second or two: what torch's compiler guards,
    and the sizes that it makes symbols of, would take it a minute. Modules and weights are those of the first trace.
    """

    def __init__(self, function: TensorFunction) -> None:
        self._function = function
        self._traced: OrderedDict[tuple[torch.Size, ...], Callable[..., Sequence[torch.Tensor]]] = OrderedDict()
        self._outputs: tuple[str, ...] = ()

    def __call__(self, tensors: Mapping[str, "torch.Tensor"]) -> Mapping[str, "torch.Tensor"]:
        """Call what is traced for these shapes, or trace for them.

        Raises:
            BackendError: the function asks its tensors for their values.
        """
        shapes = tuple(tensor.shape for tensor in tensors.values())
        if shapes not in self._traced:
            try:
                self._traced[shapes] = self._trace(tensors)
            except Exception as error:  # whatever a model does that cannot be done on fake tensors
                raise BackendError(f"torch cannot trace it: {first_line(error)}") from error
            if len(self._traced) > _SHAPES_KEPT:
                self._traced.popitem(last=False)
        self._traced.move_to_end(shapes)
        results = self._traced[shapes](*tensors.values())
        return dict(zip(self._outputs, results, strict=True))

    def _trace(self, tensors: Mapping[str, "torch.Tensor"]) -> "torch.fx.GraphModule":
        from torch._dynamo.convert_frame import compile_lock  # takes long to import
        from torch.fx.experimental.proxy_tensor import make_fx

        def positional(*given: "torch.Tensor") -> list["torch.Tensor"]:
            results = self._function(dict(zip(tensors, given, strict=True)))
            self._outputs = tuple(results)
            return list(results.values())

        with compile_lock:  # torch's tracers keep in globals what they are at
            # Before dispatch, operations are those that the model calls, not what they are made of.
            trace = make_fx(positional, tracing_mode="fake", pre_dispatch=True, _allow_non_fake_inputs=True)
            graph = trace(*tensors.values())
        graph.graph.eliminate_dead_code(_must_stay)
        graph.recompile()
        return graph


def _must_stay(node: Any) -> bool:
    """Whether an operation may do more than give a result: only those that write to a tensor do, dropout does not."""
    schema = getattr(node.target, "_schema", None)
    return node.op in ("placeholder", "output") or (schema is not None and schema.is_mutable)


class Compiled:
    """A function of named tensors, compiled twice at most: for the first shapes that come, and for all the others.

    torch's own rule makes one axis dynamic at a time, and each compilation of a U-Net takes minutes.
    """

    def __init__(self, function: TensorFunction, *, tunes: bool) -> None:
        self._for_first = _compile(function, dynamic=False, tunes=tunes)
        self._for_others = _compile(function, dynamic=True, tunes=tunes)
        self._first: list[torch.Size] | None = None
        self._met: set[tuple[torch.Size, ...]] = set()

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
        results: Mapping[str, torch.Tensor]
        try:
            if tuple(shapes) in self._met:
                return compiled(tensors)  # type: ignore[no-any-return]
            # Else two axes that are of one size when it compiles, a square's, are one axis from then on.
            with torch.fx.experimental._config.patch(use_duck_shape=False):  # type: ignore[attr-defined]
                results = compiled(tensors)
        except (torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.FailOnRecompileLimitHit) as error:
            raise BackendError(f"torch.compile failed: {of_compiler(error)}") from error
        self._met.add(tuple(shapes))
        return results


def _compile(function: TensorFunction, *, dynamic: bool, tunes: bool) -> Any:
    import torch

    def call(tensors: Mapping[str, "torch.Tensor"]) -> Mapping[str, "torch.Tensor"]:
        return function(tensors)

    # torch keeps what it compiled, and counts it up to a limit, by code object: each engine gets one of its own.
    own = FunctionType(call.__code__.replace(), call.__globals__, closure=call.__closure__)
    mode = _TUNING if tunes else None
    return torch.compile(own, fullgraph=True, dynamic=dynamic, mode=mode)


def _probe(device: str) -> str:
    """The version, and the name of the GPU."""
    import torch

    missing = why_no_gpu() if device == "cuda" else None
    if missing:
        raise BackendError(missing)
    return f"{torch.__version__}{f' on {torch.cuda.get_device_name()}' if device == 'cuda' else ''}"


def _probe_compiled(device: str) -> str:
    """torch's compiler needs another one: triton on a GPU, of C++ on a CPU."""
    detail = _probe(device)
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        raise BackendError("triton is not installed; pip install triton")
    if device == "cpu" and not any(map(shutil.which, (os.environ.get("CXX") or "g++", "clang++"))):
        raise BackendError("no C++ compiler; install g++")
    return detail


def _open_eager(device: str, built: Built) -> TorchEngine:
    assert built.variant is not None
    traceable, own = built.variant.traceable, built.variant.eager()
    inputs, outputs = {**built.inputs, **built.variant.inputs}, dict(built.outputs)
    is_cut = not built.inputs.keys() <= built.variant.inputs.keys()  # it has a tap for an input
    if traceable is None or not is_cut:
        capturable = traceable is not None
        return TorchEngine(own, inputs=inputs, outputs=outputs, device=device, capturable=capturable)
    return TorchEngine(traceable(), inputs=inputs, outputs=outputs, device=device, mode="prune", otherwise=own)


def _open_compiled(device: str, built: Built) -> TorchEngine:
    assert built.variant is not None
    if built.variant.traceable is None:
        return _open_eager(device, built)
    inputs, outputs = {**built.inputs, **built.variant.inputs}, dict(built.outputs)
    tunes = (built.options.optimization_level or 0) >= _TUNING_LEVEL
    traceable = built.variant.traceable()
    return TorchEngine(traceable, inputs=inputs, outputs=outputs, device=device, mode="compile", tunes=tunes)


def _check_options(target: str | None, options: BuildOptions) -> None:
    if options.workspace_bytes is not None or options.refittable:
        raise BackendError(
            "PyTorch manages its own workspace and reads weights where they are; leave these options out"
        )


def _backend(
    name: str, device: str, open_on: Callable[[str, Built], TorchEngine], probe: Callable[[str], str], *, exact: bool
) -> Backend:
    return Backend(
        name=name,
        device=device,
        probe=partial(probe, device),
        version=partial(package_version, "torch"),
        build=keep_nothing,
        open=partial(open_on, device),
        packages=("torch",),
        trusted=True,
        runs_model=True,
        bit_exact=exact,
        check=_check_options,
        options=not exact,
    )


EAGER_CPU, EAGER_CUDA = (_backend("torch", device, _open_eager, _probe, exact=True) for device in ("cpu", "cuda"))
COMPILED_CPU, COMPILED_CUDA = (
    _backend("torch-compile", device, _open_compiled, _probe_compiled, exact=False) for device in ("cpu", "cuda")
)
