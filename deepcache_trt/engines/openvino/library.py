"""OpenVINO itself: its module, its one core, and what it says."""

import functools
from typing import Any

from deepcache_trt.errors import BackendError


def load() -> Any:
    """The module of OpenVINO.

    Raises:
        BackendError: it is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise BackendError("backend 'openvino' is not installed; pip install 'deepcache-trt[cpu]'") from error
    return openvino


@functools.cache  # each one loads the plugins anew
def core() -> Any:
    """The one of this process.

    Raises:
        BackendError: OpenVINO is not installed.
    """
    return load().Core()


def has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def threads() -> int | None:
    """As many threads as torch was told to use; None where nobody told it: OpenVINO knows sockets and slow cores."""
    import psutil
    import torch

    told = torch.get_num_threads()
    return told if told < (psutil.cpu_count(logical=False) or 1) else None


def reason(error: BaseException) -> str:
    """The last line of OpenVINO's message; those before it say where in its sources it was raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__
