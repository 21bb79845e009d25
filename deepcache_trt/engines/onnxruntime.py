"""ONNX Runtime: a graph as it is, on torch's own memory, on the CPU or on an NVIDIA GPU."""

from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from deepcache_trt.engines.engine import Engine, check_binding
from deepcache_trt.engines.profile import ShapeProfile
from deepcache_trt.errors import BackendError, ShapeError, StoreError, first_line
from deepcache_trt.tensors import TensorSpec

if TYPE_CHECKING:
    import torch

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

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


@dataclass(frozen=True, kw_only=True)
class TensorRtProvider:
    """What ONNX Runtime's TensorRT provider compiles a graph for, and where it keeps the result.

    Each engine needs a `cache` folder of its own: the names of the files in it do not tell weights apart.
    """

    cache: Path
    inputs: Mapping[str, TensorSpec]  # of the graph
    profiles: Sequence[ShapeProfile]


Providers = list[tuple[str, dict[str, str]]]


def gpu_providers(device: int, stream: int, tensorrt: TensorRtProvider | None = None) -> Providers:
    """The providers of a session on the GPU number `device` and the CUDA stream at the address `stream`.

    Two options are missing for a reason:

    - `gpu_external_alloc` would share torch's allocator, but ONNX Runtime refuses it beside `user_compute_stream` and
      then works on the default stream, where no CUDA graph can be captured.
    - `prefer_nhwc` puts the arithmetic on shapes on the GPU, with copies to and from the host in each run, and
      such a session is refused a CUDA graph.
    """
    shared = {"device_id": str(device), "user_compute_stream": str(stream)}
    cuda = {
        **shared,
        "use_tf32": "0",  # float32 means float32
        "cudnn_conv_algo_search": "HEURISTIC",  # the timed search may choose differently for two variants of a model
        "arena_extend_strategy": "kSameAsRequested",  # leaves torch what the other one would only reserve
    }
    if tensorrt is None:
        return [(CUDA, {**cuda, "enable_cuda_graph": "1"})]
    # Precision flags stay off: the network is then strongly typed, as the graph says. trt_cuda_graph_enable too: that
    # provider does not look at the graph's number, and would replay one shape's graph for another.
    return [(TENSORRT, {**shared, **_cache_options(tensorrt.cache), **_profile_options(tensorrt)}), (CUDA, cuda)]


def _cache_options(folder: Path) -> dict[str, str]:
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
    }


def _profile_options(tensorrt: TensorRtProvider) -> dict[str, str]:
    dynamic = [spec for spec in tensorrt.inputs.values() if any(isinstance(dim, str) for dim in spec.shape)]
    return {
        f"trt_profile_{point}_shapes": ",".join(
            f"{spec.name}:{'x'.join(map(str, spec.resolve(profile.at(point))))}"
            for profile in tensorrt.profiles
            for spec in dynamic
        )
        for point in ("min", "opt", "max")
    }


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

    capturable = False  # with CUDA graphs of its own inside

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
        _check_installed(device, CPU if device == "cpu" else CUDA if tensorrt is None else TENSORRT)
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
            _renew_arena()
        self._session = _open(path, providers)
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
                _renew_arena()  # which frees the last one

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


def _renew_arena() -> None:
    """Let CPU sessions take memory from one new arena: an arena keeps what its largest run needed.

    The engines of a pipeline run one after the other, and with an arena for each they would keep the sum.
    """
    import onnxruntime

    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    as_requested = onnxruntime.OrtArenaCfg({"arena_extend_strategy": 1})
    with suppress(RuntimeError):  # early versions refuse a second one and go on with the first
        onnxruntime.create_and_register_allocator(memory, as_requested)


def _check_installed(device: str, provider: str) -> None:
    import torch

    extra = "cpu" if device == "cpu" else "cuda"
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(f"backend 'onnxruntime' is not installed; pip install 'deepcache-trt[{extra}]'") from error
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise BackendError(
            f"onnxruntime {onnxruntime.__version__} has no {provider}, only {', '.join(available)}; "
            f"pip uninstall onnxruntime, then pip install onnxruntime-gpu"
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise BackendError(
            f"torch {torch.__version__} sees no GPU; install an NVIDIA driver and torch's CUDA build, or use the CPU"
        )


def _open(path: Path, providers: Providers) -> Any:
    """A session on just these providers; torch, imported before, has loaded CUDA's libraries."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # one setting for both: torch.set_num_threads
    # Threads that spin between two runs take the cores from torch, which runs the rest of the pipeline.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    wanted = [name for name, _ in providers]
    if wanted == [CPU]:
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")  # weights are no part
        options.enable_mem_pattern = False  # a pattern is one block for a whole run, which no other engine's fits into
    if CUDA in wanted:
        options.log_severity_level = 3  # its warnings are that shapes are computed on the CPU, as they should be
    if TENSORRT in wanted:
        with suppress(ImportError):
            import tensorrt  # noqa: F401 - loads libnvinfer, which pip puts where the system does not look
    try:
        # Fallback would print to stdout and open the session on other providers.
        session = onnxruntime.InferenceSession(path, options, providers=providers, enable_fallback=0)
    except Exception as error:  # its exceptions share no public base class
        raise BackendError(f"ONNX Runtime cannot run {path.name}: {first_line(error)}") from error
    # A provider whose libraries do not load is left out without an error. session.disable_cpu_ep_fallback is no help:
    # it refuses the arithmetic on shapes too, which belongs on the CPU. Any other part of a graph that would run there
    # is refused by enable_cuda_graph.
    got = session.get_providers()
    if got[: len(wanted)] != wanted:
        raise BackendError(
            f"ONNX Runtime would run {path.name} on {', '.join(got)} and not on {wanted[0]}, whose libraries it cannot "
            f"load; install the CUDA, cuDNN and TensorRT versions that it has just named on stderr"
        )
    return session


def _spec(value: Any) -> TensorSpec:
    return TensorSpec(name=value.name, dtype=_DTYPES[value.type], shape=tuple(value.shape))
