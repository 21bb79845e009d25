"""Which backends there are, which of them work on this machine, and which one `auto` means."""

import functools
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from deepcache_trt.engines import onnxruntime, openvino, tensorrt, torch
from deepcache_trt.engines.backend import Backend, why_no_gpu
from deepcache_trt.errors import BackendError, UnknownNameError, did_you_mean, first_line

_log = logging.getLogger(__name__)

# Of pipelines and their engines.
DTYPES = ("float32", "float16", "bfloat16")

# In the order in which `auto` tries them on each device.
OWN: tuple[Backend, ...] = (
    tensorrt.TENSORRT,
    tensorrt.TENSORRT_RTX,
    onnxruntime.CUDA,
    torch.COMPILED_CUDA,
    torch.EAGER_CUDA,
    onnxruntime.TENSORRT,
    openvino.OPENVINO,
    onnxruntime.CPU,
    torch.EAGER_CPU,
    torch.COMPILED_CPU,
)

# Another package adds backends by entry points of this group, each of which is a `Backend`.
ENTRY_POINTS = "deepcache_trt.backends"

_registered: dict[tuple[str, str], Backend] = {}


def register(backend: Backend) -> None:
    """Add a backend; `auto` tries it after those that there are.

    Raises:
        BackendError: there is one of that name for that device.
    """
    known = _registered.setdefault((backend.name, backend.device), backend)
    if known is not backend:
        raise BackendError(
            f"there is a backend {backend.name!r} for {backend.device} already; give the new one another name"
        )


def _load() -> None:
    for backend in OWN:
        register(backend)
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            backend = entry.load()
            if not isinstance(backend, Backend):
                raise TypeError(f"{entry.value} is a {type(backend).__name__} and no Backend")
            register(backend)
        except Exception as error:  # one package that is broken must not take the others away
            _log.warning("the backend %r of another package is left out: %s", entry.name, first_line(error))


_load()


def every() -> tuple[Backend, ...]:
    """All of them, in the order in which `auto` tries those of a device."""
    return tuple(_registered.values())


def names() -> list[str]:
    """Their names, sorted."""
    return sorted({backend.name for backend in every()})


def find(name: str, device: str) -> Backend:
    """The backend of that name for that device, whether it works here or not.

    Raises:
        UnknownNameError: no such backend.
        BackendError: it does not run on such a device.
    """
    check_name(name)
    if (name, device) not in _registered:
        raise BackendError(_elsewhere(name, device))
    return _registered[name, device]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What `doctor` says about one backend on one device."""

    name: str
    device: str
    works: bool
    detail: str  # its version where it works, else the reason and what to install


def probe(backend: Backend) -> Finding:
    """Whether a backend works here."""
    try:
        works, detail = True, backend.probe()
    except BackendError as error:
        works, detail = False, str(error)
    return Finding(name=backend.name, device=backend.device, works=works, detail=detail)


def probe_all() -> list[Finding]:
    """Try every backend on every device that it could run on."""
    return [probe(backend) for backend in every()]


def is_outdated(about: Mapping[str, Any]) -> bool:
    """Whether an engine, of what its manifest says, is of another version of its backend than works here."""
    here = _versions_here(about["backend"]) if "backend" in about else frozenset()
    return bool(here) and about["backend_version"] not in here


@functools.cache
def _versions_here(name: str) -> frozenset[str]:
    return frozenset(each.version() for each in every() if each.name == name and probe(each).works)


def check_name(name: str) -> None:
    """Raise UnknownNameError unless there is such a backend."""
    known = ["auto", *names()]
    if name not in known:
        raise UnknownNameError(f"unknown backend {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}")


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


def best_device(name: str) -> str:
    """Where a pipeline for this backend should be: "cuda" if there is a GPU and the backend can use it, else "cpu"."""
    check_name(name)
    can = name == "auto" or (name, "cuda") in _registered
    return "cuda" if can and why_no_gpu() is None else "cpu"


def resolve(name: str, device: str) -> Backend:
    """The backend that `name` means for a pipeline on `device` ("cpu" or "cuda").

    Raises:
        UnknownNameError: no such backend.
        BackendError: it does not work here, or not on that device; the message says what to do.
    """
    check_name(name)
    candidates = [each for each in every() if each.device == device and name in ("auto", each.name)]
    if not candidates:
        raise BackendError(_elsewhere(name, device))
    refused: list[Finding] = []
    for backend in candidates:
        finding = probe(backend)
        if finding.works:
            if name == "auto":
                _log.info("backend %s (%s) on %s%s", backend.name, finding.detail, device, _because(refused))
            return backend
        refused.append(finding)
    raise BackendError("; ".join(f"backend {each.name!r} does not work here: {each.detail}" for each in refused))


def resolve_ahead(name: str, target: str) -> Backend:
    """The backend that builds for the GPU `target`, such as "sm86", on a machine without it.

    Raises:
        UnknownNameError: no such backend.
        BackendError: it builds for the GPU of this machine only.
    """
    check_name(name)
    able = builders_ahead()
    chosen = next((backend for backend in able if name in ("auto", backend.name)), None)
    if chosen is None:
        raise BackendError(
            f"backend {name!r} builds for the device that it runs on, not for {target}; "
            f"use --backend {able[0].name}, or leave --target out"
        )
    return chosen


def builders_ahead() -> list[Backend]:
    """Those that build for a GPU which this machine does not have."""
    return [backend for backend in every() if backend.ahead is not None]


def _elsewhere(name: str, device: str) -> str:
    others = sorted({each.device for each in every() if name in ("auto", each.name)})
    missing = why_no_gpu()
    if others == ["cuda"] and missing is not None:
        ahead = builders_ahead()[0].name
        build = f"--backend {ahead} --target sm86 (its compute capability)"
        cure = f"an engine plan for a GPU elsewhere can be built here: {build}"
        return f"backend {name!r} needs an NVIDIA GPU, and {missing}; {cure}"
    where = " or ".join(others)
    return f"backend {name!r} runs on {where} and the pipeline is on {device}; move it with pipe.to({others[0]!r})"


def _because(refused: Iterable[Finding]) -> str:
    return "".join(f"; not {each.name}: {each.detail}" for each in refused)
