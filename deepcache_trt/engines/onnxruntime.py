"""ONNX Runtime: a graph as it is, on torch's own memory."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepcache_trt.engines.engine import Engine, check_binding
from deepcache_trt.errors import BackendError, StoreError, first_line
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


class OnnxRuntimeEngine(Engine):
    """An ONNX Runtime session on the CPU; inputs and outputs are torch tensors, bound without a copy."""

    capturable = False

    def __init__(self, path: Path) -> None:
        """Load the graph at `path`; its weights lie beside it.

        Raises:
            BackendError: ONNX Runtime is not installed, or cannot run the graph.
        """
        import torch

        try:
            import onnxruntime
        except ImportError as error:
            raise BackendError("backend 'onnxruntime' is not installed; pip install 'deepcache-trt[cpu]'") from error
        if not path.is_file():
            raise StoreError(f"there is no graph at {path}; build it again")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()  # one setting for both: torch.set_num_threads
        # Threads that spin between two runs take the cores from torch, which runs the rest of the pipeline.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no public base class
            raise BackendError(f"ONNX Runtime cannot run {path.name}: {first_line(error)}") from error
        self.inputs = {value.name: _spec(value) for value in self._session.get_inputs()}
        self.outputs = {value.name: _spec(value) for value in self._session.get_outputs()}
        self._binding = self._session.io_binding()
        self._bound: dict[str, torch.Tensor] = {}

    def bind(self, name: str, tensor: "torch.Tensor") -> None:
        """Point the session at the tensor's memory; asking again for the same memory costs nothing."""
        spec = self.inputs.get(name) or self.outputs[name]
        check_binding(spec, tensor, "cpu")
        bound = self._bound.get(name)
        if bound is not None and bound.data_ptr() == tensor.data_ptr() and bound.shape == tensor.shape:
            self._bound[name] = tensor  # the old one may have shared this memory and be about to give it back
            return
        bind = self._binding.bind_input if name in self.inputs else self._binding.bind_output
        bind(name, "cpu", 0, _ELEMENTS[spec.dtype], list(tensor.shape), tensor.data_ptr())
        self._bound[name] = tensor

    def run(self) -> None:
        """Run the session; the outputs are filled when this returns."""
        missing = [name for name in (*self.inputs, *self.outputs) if name not in self._bound]
        assert not missing, f"unbound: {missing}"
        self._session.run_with_iobinding(self._binding)

    def close(self) -> None:
        """Drop the session and the references to bound tensors."""
        self._bound.clear()
        self._binding = self._session = None


def _spec(value: Any) -> TensorSpec:
    return TensorSpec(name=value.name, dtype=_DTYPES[value.type], shape=tuple(value.shape))
