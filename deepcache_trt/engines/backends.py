"""Which backends there are, which of them work on this machine, and which one `auto` means."""

import importlib.util
import logging
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from deepcache_trt.errors import BackendError, UnknownNameError, did_you_mean

_log = logging.getLogger(__name__)

# Backends whose engines are compiled for the shapes of a profile; the others take any shape.
COMPILED = ("tensorrt", "tensorrt-rtx", "onnxruntime-tensorrt", "openvino")

# Of these, those that are faster for one shape than for a range; all others are as fast for a small one.
STATIC = ("openvino",)

# Of pipelines and their engines.
DTYPES = ("float32", "float16", "bfloat16")

# The backend that builds for a GPU which this machine does not have.
AHEAD = "tensorrt-rtx"


@dataclass(frozen=True, kw_only=True)
class Backend:
    """What `doctor` says about one backend on one device."""

    name: str
    device: str
    works: bool
    detail: str  # its version where it works, else the reason and what to install


def _package_version(*names: str) -> str:
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown version"


def _no_gpu() -> str | None:
    """Why there is no GPU to run on; None where there is one."""
    import torch

    if torch.cuda.is_available():
        return None
    return f"torch {torch.__version__} sees no GPU; install an NVIDIA driver and torch's CUDA build"


def _tensorrt(name: str) -> Backend:
    from deepcache_trt.engines.tensorrt_versions import load

    try:
        installed = load(name).__version__
    except BackendError as error:
        return Backend(name=name, device="cuda", works=False, detail=str(error))
    missing = _no_gpu()
    detail = missing or installed
    if missing and name == AHEAD:
        detail = f"{installed} builds for another GPU here (--target sm86), but {missing}"
    return Backend(name=name, device="cuda", works=missing is None, detail=detail)


def _onnxruntime_gpu(name: str, provider: str) -> Backend:
    detail = _no_gpu()
    if detail is None and importlib.util.find_spec("onnxruntime") is None:
        detail = "not installed; pip install 'deepcache-trt[cuda]'"
    if detail is None:
        import onnxruntime

        if provider in onnxruntime.get_available_providers():
            return Backend(name=name, device="cuda", works=True, detail=onnxruntime.__version__)
        detail = (
            f"onnxruntime {onnxruntime.__version__} has no {provider}; "
            f"pip uninstall onnxruntime, then pip install onnxruntime-gpu"
        )
    return Backend(name=name, device="cuda", works=False, detail=detail)


def _onnxruntime() -> Backend:
    if importlib.util.find_spec("onnxruntime") is None:
        return Backend(
            name="onnxruntime", device="cpu", works=False, detail="not installed; pip install 'deepcache-trt[cpu]'"
        )
    import onnxruntime

    return Backend(name="onnxruntime", device="cpu", works=True, detail=onnxruntime.__version__)


def _openvino() -> Backend:
    from deepcache_trt.engines.openvino import load

    try:
        return Backend(name="openvino", device="cpu", works=True, detail=load().__version__)
    except BackendError as error:
        return Backend(name="openvino", device="cpu", works=False, detail=str(error))


def _torch(device: str) -> Backend:
    import torch

    missing = _no_gpu() if device == "cuda" else None
    if missing:
        return Backend(name="torch", device="cuda", works=False, detail=missing)
    name = f" on {torch.cuda.get_device_name()}" if device == "cuda" else ""
    return Backend(
        name="torch",
        device=device,
        works=True,
        detail=f"{torch.__version__}{name}; the reference: no faster than plain",
    )


def _torch_compile(device: str) -> Backend:
    """torch's compiler needs another one: triton on a GPU, of C++ on a CPU."""
    torch = _torch(device)
    missing = "" if torch.works else torch.detail
    if not missing and device == "cuda" and importlib.util.find_spec("triton") is None:
        missing = "triton is not installed; pip install triton"
    if not missing and device == "cpu" and not any(map(shutil.which, (os.environ.get("CXX") or "g++", "clang++"))):
        missing = "no C++ compiler; install g++"
    detail = missing or torch.detail.split(";")[0]
    return Backend(name="torch-compile", device=device, works=not missing, detail=detail)


# In the order in which `auto` tries them on each device.
_PROBES: dict[tuple[str, str], Callable[[], Backend]] = {
    ("tensorrt", "cuda"): lambda: _tensorrt("tensorrt"),
    ("tensorrt-rtx", "cuda"): lambda: _tensorrt("tensorrt-rtx"),
    ("onnxruntime", "cuda"): lambda: _onnxruntime_gpu("onnxruntime", "CUDAExecutionProvider"),
    ("torch-compile", "cuda"): lambda: _torch_compile("cuda"),
    ("torch", "cuda"): lambda: _torch("cuda"),
    ("onnxruntime-tensorrt", "cuda"): lambda: _onnxruntime_gpu("onnxruntime-tensorrt", "TensorrtExecutionProvider"),
    ("openvino", "cpu"): _openvino,
    ("onnxruntime", "cpu"): _onnxruntime,
    ("torch", "cpu"): lambda: _torch("cpu"),
    ("torch-compile", "cpu"): lambda: _torch_compile("cpu"),
}
NAMES = sorted({name for name, _ in _PROBES})


def probe_all() -> list[Backend]:
    """Try every backend on every device that it could run on."""
    return [probe() for probe in _PROBES.values()]


def check_name(name: str) -> None:
    """Raise UnknownNameError unless there is such a backend."""
    if name not in ("auto", *NAMES):
        raise UnknownNameError(
            f"unknown backend {name!r}{did_you_mean(name, ['auto', *NAMES])}; there are auto, {', '.join(NAMES)}"
        )


def check_dtype(name: str, device: str, dtype: str) -> None:
    """Raise BackendError unless the backend computes in that precision."""
    if (name, device, dtype) == ("onnxruntime", "cpu", "bfloat16"):
        raise BackendError(
            "backend 'onnxruntime' has no bfloat16 on the CPU; use float32 there, or backend 'openvino', which has"
        )


def dtype_or_default(dtype: str | None, device: str) -> str:
    """The precision that is meant: float16 on a GPU and float32 without one, if none is named.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if dtype is None:
        return "float16" if device == "cuda" else "float32"
    if dtype not in DTYPES:
        raise UnknownNameError(
            f"unknown dtype {dtype!r}{did_you_mean(dtype, list(DTYPES))}; there are {', '.join(DTYPES)}"
        )
    return dtype


def runs_on(name: str, device: str) -> bool:
    """Whether there is such a backend for such a device, here or elsewhere."""
    return (name, device) in _PROBES


def best_device(name: str) -> str:
    """Where a pipeline for this backend should be: "cuda" if there is a GPU and the backend can use it, else "cpu"."""
    check_name(name)
    can = name == "auto" or runs_on(name, "cuda")
    return "cuda" if can and _no_gpu() is None else "cpu"


def resolve(name: str, device: str) -> str:
    """The backend that `name` means for a pipeline on `device` ("cpu" or "cuda").

    Raises:
        UnknownNameError: no such backend.
        BackendError: it does not work here, or not on that device; the message says what to do.
    """
    check_name(name)
    candidates = [key for key in _PROBES if key[1] == device and name in ("auto", key[0])]
    if not candidates:
        raise BackendError(_elsewhere(name, device))
    refused: list[Backend] = []
    for key in candidates:
        backend = _PROBES[key]()
        if backend.works:
            if name == "auto":
                _log.info("backend %s (%s) on %s%s", backend.name, backend.detail, device, _because(refused))
            return backend.name
        refused.append(backend)
    raise BackendError("; ".join(f"backend {b.name!r} does not work here: {b.detail}" for b in refused))


def resolve_ahead(name: str, target: str) -> str:
    """The backend that builds for the GPU `target`, such as "sm86", on a machine without it.

    Raises:
        UnknownNameError: no such backend.
        BackendError: it builds for the GPU of this machine only.
    """
    check_name(name)
    if name not in ("auto", AHEAD):
        raise BackendError(
            f"backend {name!r} builds for the device that it runs on, not for {target}; "
            f"use --backend {AHEAD}, or leave --target out"
        )
    return AHEAD


def _elsewhere(name: str, device: str) -> str:
    others = sorted({where for backend, where in _PROBES if name in ("auto", backend)})
    if others == ["cuda"] and _no_gpu() is not None:
        cure = f"a plan for a GPU elsewhere can be built here: --backend {AHEAD} --target sm86 (its compute capability)"
        return f"backend {name!r} needs an NVIDIA GPU, and {_no_gpu()}; {cure}"
    where = " or ".join(others)
    return f"backend {name!r} runs on {where} and the pipeline is on {device}; move it with pipe.to({others[0]!r})"


def _because(refused: list[Backend]) -> str:
    return "".join(f"; not {b.name}: {b.detail}" for b in refused)


def version_of(name: str) -> str:
    """The version that enters the key of an engine."""
    match name:
        case "tensorrt" | "tensorrt-rtx":
            from deepcache_trt.engines.tensorrt_versions import load

            return load(name).__version__
        case "torch" | "torch-compile":
            return _package_version("torch")
        case "openvino":
            return _package_version("openvino")
    return _package_version("onnxruntime", "onnxruntime-gpu")


def device_tag(name: str, device: str, target: str | None = None) -> str:
    """The device that enters the key of an engine: an engine for one is not loaded on another.

    Args:
        name: the backend. Plans of TensorRT-RTX belong to a compute capability, other engines to one model of GPU.
        device: "cpu" or "cuda".
        target: the compute capability of a GPU elsewhere, such as "sm86"; None: this machine's device.
    """
    if target is not None:
        return target
    if device == "cpu":
        return f"cpu-{platform.machine()}"
    import torch

    major, minor = torch.cuda.get_device_capability()
    capability = f"sm{major}{minor}"
    return capability if name == AHEAD else f"{torch.cuda.get_device_name()} {capability}"
