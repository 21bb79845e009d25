"""Sessions of ONNX Runtime: on which providers, with which options, and that they are what was asked for."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepcache_trt.engines.profile import ShapeProfile
from deepcache_trt.errors import BackendError, first_line
from deepcache_trt.tensors import TensorSpec

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


@dataclass(frozen=True, kw_only=True)
class TensorRtProvider:
    """What ONNX Runtime's TensorRT provider compiles a graph for, and where it keeps the result.

    Each engine needs a `cache` folder of its own: the names of the files in it do not tell weights apart.
    """

    cache: Path
    inputs: Mapping[str, TensorSpec]  # what the graph takes
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


def check_installed(device: str, provider: str) -> None:
    """Raise BackendError unless ONNX Runtime is there with this provider, and a GPU where it needs one."""
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


def open_session(path: Path, providers: Providers) -> Any:
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


def renew_arena() -> None:
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
