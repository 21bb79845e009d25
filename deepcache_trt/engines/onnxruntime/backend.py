"""ONNX Runtime as backends: one for each provider."""

import importlib.util
from functools import partial

from deepcache_trt.engines.backend import ENGINE_GRAPH, Backend, Built, package_version, why_no_gpu
from deepcache_trt.engines.onnxruntime.engine import OnnxRuntimeEngine
from deepcache_trt.engines.onnxruntime.session import CUDA as CUDA_PROVIDER
from deepcache_trt.engines.onnxruntime.session import TENSORRT as TENSORRT_PROVIDER
from deepcache_trt.engines.onnxruntime.session import TensorRtProvider
from deepcache_trt.errors import BackendError


def _probe_cpu() -> str:
    if importlib.util.find_spec("onnxruntime") is None:
        raise BackendError("not installed; pip install 'deepcache-trt[cpu]'")
    import onnxruntime

    return str(onnxruntime.__version__)


def _probe_gpu(provider: str) -> str:
    missing = why_no_gpu()
    if missing is not None:
        raise BackendError(missing)
    if importlib.util.find_spec("onnxruntime") is None:
        raise BackendError("not installed; pip install 'deepcache-trt[cuda]'")
    import onnxruntime

    if provider not in onnxruntime.get_available_providers():
        raise BackendError(
            f"onnxruntime {onnxruntime.__version__} has no {provider}; "
            f"pip uninstall onnxruntime, then pip install onnxruntime-gpu"
        )
    return str(onnxruntime.__version__)


_PACKAGES = ("onnxruntime", "onnxruntime-gpu")
_version = partial(package_version, *_PACKAGES)


def _open(device: str, built: Built) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(built.folder / ENGINE_GRAPH, device=device)


def _open_with_tensorrt(built: Built) -> OnnxRuntimeEngine:
    provider = TensorRtProvider(cache=built.cache("engines"), inputs=built.inputs, profiles=built.profiles)
    return OnnxRuntimeEngine(built.folder / ENGINE_GRAPH, device="cuda", tensorrt=provider)


CPU = Backend(
    name="onnxruntime",
    device="cpu",
    probe=_probe_cpu,
    version=_version,
    open=partial(_open, "cpu"),
    packages=_PACKAGES,
    opens_graphs=True,
    trusted=True,  # it is what others are compared with
    lacks={"bfloat16": "use float32 there, or backend 'openvino', which has", "fp8": "no CPU has; use int8 there"},
)

CUDA = Backend(
    name="onnxruntime",
    device="cuda",
    probe=partial(_probe_gpu, CUDA_PROVIDER),
    version=_version,
    open=partial(_open, "cuda"),
    packages=_PACKAGES,
    opens_graphs=True,
    captures=True,
    lacks=dict.fromkeys(
        ("int8", "fp8"), "its kernels there compute what is quantized in float all the same; use backend 'tensorrt'"
    ),
)

TENSORRT = Backend(
    name="onnxruntime-tensorrt",
    device="cuda",
    probe=partial(_probe_gpu, TENSORRT_PROVIDER),
    version=_version,
    open=_open_with_tensorrt,
    packages=_PACKAGES,
    compiled=True,
)
