"""ONNX Runtime: a graph as it is, on torch's own memory, on the CPU or on an NVIDIA GPU."""

from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from deepcache_trt.engines.engine import Engine, check_binding
from deepcache_trt.engines.onnxruntime.session import (
    CPU,
    CUDA,
    TENSORRT,
    Providers,
    TensorRtProvider,
    check_installed,
    gpu_providers,
    open_session,
    renew_arena,
)
from deepcache_trt.errors import BackendError, ShapeError, StoreError, first_line
from deepcache_trt.tensors import TensorSpec

if TYPE_CHECKING:
    import torch

# ONNX Runtime's type strings, and the elements' numbers in onnx.TensorProto.
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}
_ELEMENTS = {"float32": 1, "int64": 7, "bool": 9, "float16": 10, "bfloat16": 16}

# ONNX Runtime frees a CUDA graph with its session and not before: release_captured_graph does nothing on CUDA.
_MOST_GRAPHS = 16
_NO_GRAPH = -1


class GraphNumbers:
    """Which of ONNX Runtime's CUDA graphs a run uses: one for each set of addresses and shapes, up to `limit`.

    A graph replays the addresses that it was captured with, so another set never gets the same number.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._numbers: dict[Hashable, int] = {}
        self._last: Hashable = None

    def number(self, addresses: Hashable) -> int:
        """The graph for these addresses; -1, no graph, unless they come twice in a row: a capture costs three runs."""
        if addresses == self._last and len(self._numbers) < self._limit:
            self._numbers.setdefault(addresses, len(self._numbers) + 1)
        self._last = addresses
        return self._numbers.get(addresses, _NO_GRAPH)


class OnnxRuntimeEngine(Engine):
    """An ONNX Runtime session; inputs and outputs are torch tensors, bound without a copy.

    On a GPU it works on a stream of its own, because a CUDA graph cannot be captured on torch's default stream.
    `run` makes that stream wait for the current one and the current one wait for it, so it may be called on any.
    """

    capturable = False  # it has CUDA graphs of its own inside

    def __init__(self, path: Path, *, device: str = "cpu", tensorrt: TensorRtProvider | None = None) -> None:
        """Load the graph at `path`; its weights lie beside it.

        Args:
            path: the graph.
            device: "cpu" or "cuda", which means torch's current GPU.
            tensorrt: on a GPU, compile with the TensorRT provider; its CUDA provider takes what TensorRT does not.

        Raises:
            StoreError: there is no graph.
            BackendError: ONNX Runtime is not installed, cannot run the graph, or would run it somewhere else.
        """
        import torch

        assert device in (("cpu", "cuda") if tensorrt is None else ("cuda",)), device
        check_installed(device, CPU if device == "cpu" else CUDA if tensorrt is None else TENSORRT)
        if not path.is_file():
            raise StoreError(f"there is no graph at {path}; build it again")
        self._name = path.name
        self._device = torch.device("cpu")
        self._stream: torch.cuda.Stream | None = None
        self._graphs: GraphNumbers | None = None
        providers: Providers = [(CPU, {})]
        if device == "cuda":
            self._device = torch.device("cuda", torch.cuda.current_device())
            self._stream = torch.cuda.Stream(self._device)
            self._graphs = GraphNumbers(_MOST_GRAPHS) if tensorrt is None else None
            providers = gpu_providers(torch.cuda.current_device(), self._stream.cuda_stream, tensorrt)
        if tensorrt is not None:
            tensorrt.cache.mkdir(parents=True, exist_ok=True)
        if device == "cpu" and not _open_on_cpu:
            renew_arena()
        self._session = open_session(path, providers)
        if device == "cpu":
            _open_on_cpu.add(self)
        self.inputs = {value.name: _spec(value) for value in self._session.get_inputs()}
        self.outputs = {value.name: _spec(value) for value in self._session.get_outputs()}
        self._binding = self._session.io_binding()
        self._bound: dict[str, torch.Tensor] = {}

    def bind(self, name: str, tensor: "torch.Tensor") -> None:
        """Point the session at the tensor's memory; asking again for the same memory costs nothing."""
        spec = self.inputs.get(name) or self.outputs[name]
        check_binding(spec, tensor, self._device.type)
        if tensor.device.index != self._device.index:
            raise ShapeError(
                f"{name} is on {tensor.device}, the engine runs on {self._device}; move it with .to('{self._device}')"
            )
        bound = self._bound.get(name)
        if bound is not None and bound.data_ptr() == tensor.data_ptr() and bound.shape == tensor.shape:
            self._bound[name] = tensor  # the old one may have shared this memory and be about to give it back
            return
        bind = self._binding.bind_input if name in self.inputs else self._binding.bind_output
        where = (self._device.type, self._device.index or 0)
        bind(name, *where, _ELEMENTS[spec.dtype], list(tensor.shape), tensor.data_ptr())
        self._bound[name] = tensor

    def run(self) -> None:
        """Run the session. On a CPU the outputs are filled when this returns, on a GPU the work is enqueued.

        The second run in a row on the same memory captures a CUDA graph, and later ones replay it. During that one no
        other thread may allocate memory on the GPU.

        Raises:
            BackendError: ONNX Runtime failed, or the current stream is being captured.
        """
        missing = [name for name in (*self.inputs, *self.outputs) if name not in self._bound]
        assert not missing, f"unbound: {missing}"
        if self._stream is None:
            self._submit(None)
            return
        import torch

        if torch.cuda.is_current_stream_capturing():  # ONNX Runtime would end the process
            raise BackendError(
                "an ONNX Runtime engine has CUDA graphs of its own and cannot be captured into another; run it outside"
            )
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        self._submit(self._gpu_options())
        current.wait_stream(self._stream)

    def close(self) -> None:
        """Drop the session and the references to bound tensors."""
        if self._stream is not None:
            self._stream.synchronize()
        self._bound.clear()
        self._binding = self._session = None
        if self in _open_on_cpu:
            _open_on_cpu.remove(self)
            if not _open_on_cpu:
                renew_arena()  # the last one is freed by that

    def _gpu_options(self) -> Any:
        import onnxruntime

        options = onnxruntime.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if self._graphs is not None:
            addresses = tuple((name, tensor.data_ptr(), tensor.shape) for name, tensor in self._bound.items())
            options.add_run_config_entry("gpu_graph_id", str(self._graphs.number(addresses)))
        return options

    def _submit(self, options: Any) -> None:
        try:
            self._session.run_with_iobinding(self._binding, options)
        except Exception as error:  # its exceptions share no public base class
            raise BackendError(f"ONNX Runtime failed in {self._name}: {first_line(error)}") from error


_open_on_cpu: WeakSet[OnnxRuntimeEngine] = WeakSet()


def _spec(value: Any) -> TensorSpec:
    return TensorSpec(name=value.name, dtype=_DTYPES[value.type], shape=tuple(value.shape))
