"""TensorRT and TensorRT-RTX: an engine plan, run on torch's own memory and stream."""

import mmap
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepcache_trt.engines.engine import Engine, check_binding, profile_for
from deepcache_trt.engines.profile import ShapeProfile
from deepcache_trt.engines.tensorrt import versions
from deepcache_trt.engines.tensorrt.contexts import Context, Contexts, new_context
from deepcache_trt.engines.tensorrt.kernels import Kernels
from deepcache_trt.errors import BackendError, ShapeError, StoreError
from deepcache_trt.tensors import TensorSpec

if TYPE_CHECKING:
    import torch

_ALIGNMENT = 256  # bytes; TensorRT's kernels assume it of every address

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


_ONE_OF_EACH = "an engine plan serves one version and one kind of GPU, build it again for these"


class TensorRTEngine(Engine):
    """An engine plan, loaded onto torch's current GPU; inputs and outputs are torch tensors, bound without a copy.

    Several engines may be given the same workspace if they run one after the other on one stream. After a change of
    shape, tensor, workspace or weights, `run` once outside a CUDA graph before it is captured: TensorRT sets itself up
    in that first call. A graph replays what its execution context was told when it was captured, so each output that is
    bound has a context of its own for as long as it lives: to bind another does no harm to graphs on the one before,
    and shapes that take turns are told to TensorRT once each. It runs on its own GPU, whichever is torch's current one.
    """

    capturable = True  # False once TensorRT has said that what last ran cannot be

    def __init__(
        self,
        path: Path,
        *,
        backend: str,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        profiles: Sequence[ShapeProfile],
        runtime_cache: Path | None = None,
    ) -> None:
        """Load the engine plan at `path`, built for `profiles` in this order, by "tensorrt" or "tensorrt-rtx".

        TensorRT-RTX compiles the rest on the GPU when it first runs; it keeps the result in the file `runtime_cache`.

        Raises:
            BackendError: the backend or a GPU is missing, or the engine plan is not for this version and GPU.
            StoreError: there is no engine plan.
        """
        import torch

        self._trt = versions.load(backend)
        if not path.is_file():
            raise StoreError(f"there is no engine plan at {path}; build it again")
        if not torch.cuda.is_available():  # TensorRT 8.6 ends the process instead of saying so
            raise BackendError(f"backend {backend!r} needs an NVIDIA GPU and torch sees none; install a driver")
        versions.check_gpu(self._trt)
        self.inputs, self.outputs = dict(inputs), dict(outputs)
        self._profiles = profiles
        self._device = torch.cuda.current_device()
        self._runtime = self._trt.Runtime(versions.logger(self._trt))
        self._engine = _deserialize(self._trt, self._runtime, path)
        self.workspace_bytes = versions.workspace_bytes(self._engine)
        self._dtypes = _dtypes(self._engine, path, inputs, outputs)
        self._config = versions.runtime_config(self._trt, self._engine)
        compiles = self.compiles_at_first_run = self._config is not None
        self._kernels = Kernels(self._trt, self._config, runtime_cache) if compiles and runtime_cache else None
        self._compiled: set[Any] = set()  # the profiles and shapes at which this engine has run
        self._contexts = Contexts()
        self._first = next(iter(self.outputs))
        self._current: Context | None = None
        self._bound: dict[str, torch.Tensor] = {}
        self._memory: torch.Tensor | None = None
        self._stale = True  # something changed since the context last ran outside a capture

    def bind(self, name: str, tensor: "torch.Tensor") -> None:
        """Use the tensor's memory; its shape meets the others' at the next `run`."""
        check_binding(self.inputs.get(name) or self.outputs[name], tensor, "cuda")
        self._check_place(name, tensor)
        bound = self._bound.get(name)
        if bound is None or bound.data_ptr() != tensor.data_ptr() or bound.shape != tensor.shape:
            self._stale = True
        if name == self._first and bound is not tensor:
            self._stale = True  # contexts live as long as this very tensor, wherever it is
        self._bound[name] = tensor

    def use_workspace(self, memory: "torch.Tensor") -> None:
        """Use `memory` in every context from now on."""
        assert memory.nbytes >= self.workspace_bytes, f"{memory.nbytes} of {self.workspace_bytes} bytes"
        self._check_place("the workspace", memory)
        self._stale = self._stale or self._memory is None or self._memory.data_ptr() != memory.data_ptr()
        self._memory = memory

    def run(self) -> None:
        """Enqueue one inference on torch's current stream.

        Raises:
            ShapeError: the bound shapes do not go together, or no profile covers them.
            BackendError: TensorRT refuses.
        """
        import torch

        with torch.cuda.device(self._device):  # TensorRT works on the current one, the engine lies on this one
            stream = torch.cuda.current_stream(self._device).cuda_stream
            is_first = self._stale
            if is_first:
                # Capturing what TensorRT does in its first call would repeat it at every replay, or fail.
                assert not torch.cuda.is_current_stream_capturing(), "run once after a change, before capturing"
                self._prepare(stream)
            elif not self.capturable and torch.cuda.is_current_stream_capturing():
                raise BackendError(
                    f"{self._trt.__name__} {self._trt.__version__} cannot run this engine plan inside a CUDA graph at "
                    "these shapes; run it outside one"
                )
            self._enqueue(stream)
            if is_first:
                self._learn()

    def refit(self, graph: Path) -> None:
        """Take the weights of `graph`, waiting for the GPU first. If it fails, some weights may be new: close then."""
        import torch

        if not self._engine.refittable:
            raise BackendError("this engine plan was not built to be refitted; build another one for these weights")
        with torch.cuda.device(self._device):
            torch.cuda.synchronize(self._device)
            versions.refit(self._trt, self._engine, graph)
        self._stale = True

    def close(self) -> None:
        """Wait for the GPU, save what TensorRT-RTX compiled, and drop the engine and the bound tensors."""
        import torch

        if self._runtime is None:
            return
        with torch.cuda.device(self._device):
            torch.cuda.synchronize(self._device)
            if self._kernels is not None:
                self._kernels.save()
                self._kernels.close()
            self._bound.clear()
            self._memory = self._current = None
            self._contexts.clear()  # contexts, then their engine, then its runtime: each needs the next one
            self._config = None
            self._engine = None
            self._runtime = None

    def _check_place(self, name: str, tensor: "torch.Tensor") -> None:
        if tensor.get_device() != self._device:
            raise ShapeError(
                f"{name} is on cuda:{tensor.get_device()}, the engine was loaded on cuda:{self._device}; "
                "move it, or load the engine while torch.cuda.device of that GPU is set"
            )
        if tensor.data_ptr() % _ALIGNMENT:
            raise ShapeError(
                f"{name} starts {tensor.data_ptr() % _ALIGNMENT} bytes past a multiple of {_ALIGNMENT}, where "
                "TensorRT cannot read it; pass it through .clone()"
            )

    def _prepare(self, stream: int) -> None:
        """Tell the context of the nearest profile what changed."""
        import torch

        missing = [name for name in (*self.inputs, *self.outputs) if name not in self._bound]
        assert not missing, f"unbound: {missing}"
        assert self._memory is not None or not self.workspace_bytes, "use_workspace comes before run"
        profile = profile_for(self.inputs, self.outputs, self._bound, self._profiles)
        self._current = None  # it may be that of an output which has died
        contexts = self._contexts.of(self._bound[self._first], wait=partial(torch.cuda.synchronize, self._device))
        if profile not in contexts:
            contexts[profile] = new_context(self._trt, self._engine, self._config, profile, stream)
        current = contexts[profile]
        if self._memory is not None:
            current.use_memory(self._memory)
        for name, dtype in self._dtypes.items():
            tensor = self._bound[name]
            if (self.inputs.get(name) or self.outputs[name]).dtype != dtype:
                tensor = current.narrow(name, tensor)
            if name in self.inputs:
                current.use_input_shape(name, tuple(tensor.shape))
            current.use_tensor(name, tensor)
        self._current = current

    def _enqueue(self, stream: int) -> None:
        assert self._current is not None
        for name, narrow in self._current.narrowed.items():
            narrow.copy_(self._bound[name])
        with versions.errors_of(self._trt) as errors:
            done = self._current.context.execute_async_v3(stream)
        if not done:
            self._stale = True
            raise BackendError(f"TensorRT could not run the engine: {versions.reason(errors)}")
        self._stale = False

    def _learn(self) -> None:
        """After a first run, in which TensorRT-RTX compiles: ask what is known only now, and keep what it made.

        A process may be killed before it closes the engine, and compiling takes minutes.
        """
        import torch

        current = self._current
        assert current is not None
        if current.capturable is None:
            # The current stream may be the default one, which can never be captured; graphs are recorded on another.
            stream = torch.cuda.Stream(self._device).cuda_stream
            current.capturable = versions.can_be_captured(current.context, stream)
        self.capturable = current.capturable
        compiled = (current.profile, *sorted(current.shapes.items()))
        if self._kernels is not None and compiled not in self._compiled:
            self._compiled.add(compiled)
            self._kernels.save()


def _deserialize(trt: Any, runtime: Any, path: Path) -> Any:
    with versions.errors_of(trt) as errors:
        engine = None
        if path.stat().st_size:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise BackendError(
            f"{path} does not load with {trt.__name__} {trt.__version__} on this GPU ({versions.reason(errors)}); "
            f"{versions.unlisted_gpu(trt) or _ONE_OF_EACH}"
        )
    return engine


def _dtypes(
    engine: Any, path: Path, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]
) -> dict[str, str]:
    """The dtype of each tensor of an engine plan: that of its spec, but 8.6 reads int32 where the graph has int64."""
    specs = {**inputs, **outputs}
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    dtypes = {name: _DTYPES.get(engine.get_tensor_dtype(name).name, "another") for name in names}
    for name, dtype in dtypes.items():
        wanted = specs[name].dtype if name in specs else "nothing"
        if dtype != wanted and (name not in inputs or (dtype, wanted) != ("int32", "int64")):
            raise BackendError(f"{path}: {name!r} is {dtype} there and {wanted} in its manifest; build it again")
    return dtypes
