"""Which backends there are, which of them work on this machine, and which one `auto` means."""

import logging
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from deepcache_trt.errors import BackendError, UnknownNameError, did_you_mean

_log = logging.getLogger(__name__)


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


def _onnxruntime() -> Backend:
    try:
        import onnxruntime
    except ImportError:
        return Backend(
            name="onnxruntime", device="cpu", works=False, detail="not installed; pip install 'deepcache-trt[cpu]'"
        )
    return Backend(name="onnxruntime", device="cpu", works=True, detail=onnxruntime.__version__)


def _torch(device: str) -> Backend:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        return Backend(
            name="torch",
            device="cuda",
            works=False,
            detail=f"torch {torch.__version__} sees no GPU; install an NVIDIA driver and torch's CUDA build",
        )
    name = f" on {torch.cuda.get_device_name()}" if device == "cuda" else ""
    return Backend(
        name="torch",
        device=device,
        works=True,
        detail=f"{torch.__version__}{name}; the reference: no faster than plain",
    )


# In the order in which `auto` tries them on each device.
_PROBES: dict[tuple[str, str], Callable[[], Backend]] = {
    ("torch", "cuda"): lambda: _torch("cuda"),
    ("onnxruntime", "cpu"): _onnxruntime,
    ("torch", "cpu"): lambda: _torch("cpu"),
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
            "backend 'onnxruntime' has no bfloat16 on the CPU; use float32 there, or backend 'torch' (the reference)"
        )


def best_device(name: str) -> str:
    """Where a pipeline for this backend should be: "cuda" if there is a GPU and the backend can use it, else "cpu"."""
    import torch

    check_name(name)
    can = name == "auto" or (name, "cuda") in _PROBES
    return "cuda" if can and torch.cuda.is_available() else "cpu"


def resolve(name: str, device: str) -> str:
    """The backend that `name` means for a pipeline on `device` ("cpu" or "cuda").

    Raises:
        UnknownNameError: no such backend.
        BackendError: it does not work here, or not on that device; the message says what to do.
    """
    check_name(name)
    candidates = [key for key in _PROBES if key[1] == device and name in ("auto", key[0])]
    if not candidates:
        others = sorted({where for backend, where in _PROBES if name in ("auto", backend)})
        raise BackendError(
            f"backend {name!r} runs on {' or '.join(others)} and the pipeline is on {device}; "
            f"move it with pipe.to({others[0]!r})"
        )
    refused: list[Backend] = []
    for key in candidates:
        backend = _PROBES[key]()
        if backend.works:
            if name == "auto":
                _log.info("backend %s (%s) on %s%s", backend.name, backend.detail, device, _because(refused))
            return backend.name
        refused.append(backend)
    raise BackendError("; ".join(f"backend {b.name!r} does not work here: {b.detail}" for b in refused))


def _because(refused: list[Backend]) -> str:
    return "".join(f"; not {b.name}: {b.detail}" for b in refused)


def version_of(name: str) -> str:
    """The version that enters the key of an engine."""
    return {
        "onnxruntime": lambda: _package_version("onnxruntime", "onnxruntime-gpu"),
        "torch": lambda: _package_version("torch"),
    }[name]()


def device_tag(device: str) -> str:
    """The device that enters the key of an engine: an engine for one is not loaded on another."""
    if device == "cpu":
        return f"cpu-{platform.machine()}"
    import torch

    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()} sm{major}{minor}"
