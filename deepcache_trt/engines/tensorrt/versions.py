"""What differs between TensorRT 8.6 → 11 and TensorRT-RTX; the rest of the engine code knows one API.

`trt` is the module of either, as `load` returns it. A name that some version lacks is used in this file only.
"""

import functools
import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deepcache_trt.errors import BackendError, first_line

_log = logging.getLogger(__name__)

# backend: its module, and what installs it.
_MODULES = {
    "tensorrt": ("tensorrt", "pip install 'deepcache-trt[cuda]'"),
    "tensorrt-rtx": ("tensorrt_rtx", "pip install 'deepcache-trt[rtx]'"),
}

# Warnings that say something about the images or the speed; the many others are remarks on the graph.
_WARNINGS_THAT_MATTER = ("insufficient", "overflow", "infinit", "different models of devices")

# TensorRT-RTX adds this to every error where there is no GPU, whatever the error.
_NOISE = "checkMacros.cpp::catchCudaError"

# From this version on TensorRT-RTX refuses a GPU that it does not list; before, such a GPU may work.
_REFUSES_UNLISTED = (1, 7)


def load(backend: str) -> Any:
    """The module of a backend, "tensorrt" or "tensorrt-rtx".

    Raises:
        BackendError: it is not installed, or only as a placeholder without libraries.
    """
    name, command = _MODULES[backend]
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise BackendError(f"backend {backend!r} does not load ({first_line(error)}); {command}") from error
    if not hasattr(module, "Builder"):  # the package on PyPI may be a placeholder that fetches its libraries elsewhere
        raise BackendError(f"backend {backend!r} is a placeholder package without its libraries; {command}")
    return module


def version(trt: Any) -> tuple[int, ...]:
    """The version as numbers, e.g. (10, 13, 3)."""
    return tuple(int(part) for part in trt.__version__.split("+")[0].split(".") if part.isdigit())


def targets(trt: Any) -> list[str]:
    """The GPUs that TensorRT-RTX lists and can build for ahead of time, such as "sm86"."""
    return [name.lower() for name in trt.ComputeCapability.__members__ if name.startswith("SM")]


def unlisted_gpu(trt: Any) -> str | None:
    """What to say where torch's current GPU is none that TensorRT-RTX lists; None where it is, and for TensorRT."""
    if trt.__name__ == "tensorrt":
        return None
    import torch

    listed = targets(trt)
    major, minor = torch.cuda.get_device_capability()
    if f"sm{major}{minor}" in listed:
        return None
    return (
        f"TensorRT-RTX {trt.__version__} is for {', '.join(listed)}, and this {torch.cuda.get_device_name()} is "
        f"sm{major}{minor}; use backend tensorrt, onnxruntime or torch on it"
    )


def check_gpu(trt: Any) -> str:
    """Whether the module can work on torch's current GPU: a remark where that is not sure, "" where it is.

    Raises:
        BackendError: TensorRT-RTX would refuse this GPU, only later and with less of a reason.
    """
    remark = unlisted_gpu(trt)
    if remark is None:
        return ""
    if version(trt) >= _REFUSES_UNLISTED:
        raise BackendError(remark)
    return f"{remark} if this fails"


def severity_level(severity: str, text: str) -> int:
    """The level of Python's logging for a message of TensorRT.

    Its errors are no more than INFO: the one that fails the call is in the exception, the others were overcome.
    """
    if severity == "WARNING" and any(word in text.lower() for word in _WARNINGS_THAT_MATTER):
        return logging.WARNING
    return {"INFO": logging.DEBUG, "VERBOSE": 5}.get(severity, logging.INFO)


@functools.cache  # TensorRT keeps the first logger of a process and complains about another one
def logger(trt: Any) -> Any:
    """The process's `trt.ILogger`: passes everything on to Python's logging, and keeps errors and layers."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # TensorRT has no types
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.layers = ""  # what a builder told of those of its engine plan, a line each
            self.interrupted = False

        def log(self, severity: Any, text: str) -> None:
            try:
                if severity.name in ("ERROR", "INTERNAL_ERROR"):
                    self.errors += told([text])
                if text.startswith("Layers:\n"):
                    self.layers = text
                _log.log(severity_level(severity.name, text), "%s", text)
            except KeyboardInterrupt:  # C++ called this, and drops every exception
                self.interrupted = True

    return Logger()


@contextmanager
def errors_of(trt: Any) -> Iterator[list[str]]:
    """What TensorRT reports as errors inside the block, oldest first; a Ctrl-C that it swallows is raised after."""
    log = logger(trt)
    log.errors, log.interrupted = [], False
    yield log.errors
    if log.interrupted:
        raise KeyboardInterrupt


# Building.


def network_flags(trt: Any) -> int:
    """Explicit batch where it is not yet the only way (8.6, 9), strongly typed where that exists (from 9)."""
    explicit = 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH) if _is_before(trt, 10) else 0
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if is_strongly_typed(trt) else 0
    return explicit | typed


def is_strongly_typed(trt: Any) -> bool:
    """Whether each tensor has the dtype that the graph gives it; else TensorRT chooses among those it is allowed."""
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def _is_before(trt: Any, major: int) -> bool:
    return bool(trt.__name__ == "tensorrt") and version(trt) < (major,)


def precision_flags(trt: Any, network: Any) -> dict[str, bool]:
    """What a weakly typed network must be allowed (8.6): fp16 if the graph computes anything in it.

    Without the flag TensorRT 8.6 runs an fp16 graph in fp32. It has no bfloat16.
    """
    if is_strongly_typed(trt):
        return {}
    layers = (network.get_layer(index) for index in range(network.num_layers))
    tensors = (layer.get_output(index) for layer in layers for index in range(layer.num_outputs))
    return {"fp16": any(tensor.dtype == trt.DataType.HALF for tensor in tensors)}


def preview_features(trt: Any) -> list[Any]:
    """What is the only way from 10 on and has to be asked for before: several contexts on one profile."""
    return [trt.PreviewFeature.PROFILE_SHARING_0806] if _is_before(trt, 10) else []


def capture_flags(trt: Any) -> list[Any]:
    """What a builder of TensorRT-RTX must be told for its engine plans to be captured in CUDA graphs (from 1.2).

    They may otherwise allocate memory while they run.
    """
    flag = "REQUIRE_USER_ALLOCATION"
    return [getattr(trt.BuilderFlag, flag)] if hasattr(trt.BuilderFlag, flag) else []


def node_of(error: Any, graph: Path) -> tuple[str, str]:
    """The name and the operator of the node that a parser error is about; 8.6 and 9 give its number only."""
    if hasattr(error, "node_name"):
        return error.node_name(), error.node_operator()
    import onnx

    nodes = onnx.load(graph, load_external_data=False).graph.node
    number = error.node()
    return (nodes[number].name, nodes[number].op_type) if 0 <= number < len(nodes) else ("", "")


def has_progress(trt: Any) -> bool:
    """Whether a build can say how far it is (from 9.1)."""
    return hasattr(trt, "IProgressMonitor")


def keeps_timings(trt: Any) -> bool:
    """Whether a build measures kernels and can reuse what an earlier one measured; TensorRT-RTX measures none."""
    return bool(trt.__name__ == "tensorrt")


# Running.


def runtime_config(trt: Any, engine: Any) -> Any | None:
    """How TensorRT-RTX runs an engine: our memory, and kernels that do not change under a captured CUDA graph.

    By default it first runs general kernels and swaps in those for the current shape when they are compiled, later,
    which a captured graph would not survive.
    """
    if not hasattr(trt, "IRuntimeCache"):
        return None
    config = engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    return config


def create_context(trt: Any, engine: Any, config: Any | None) -> Any | None:
    """An execution context without memory of its own; None if TensorRT cannot make it."""
    if config is not None:
        return engine.create_execution_context(config)
    if hasattr(trt, "ExecutionContextAllocationStrategy"):  # it is there from 10.0 on
        return engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    return engine.create_execution_context_without_device_memory()


def workspace_bytes(engine: Any) -> int:
    """Bytes of scratch memory that a context needs, the most over all profiles."""
    if hasattr(engine, "device_memory_size_v2"):  # it is there from 10.1 on
        return int(engine.device_memory_size_v2)
    return int(engine.device_memory_size)


def give_memory(context: Any, address: int, size: int) -> None:
    """Let a context use `size` bytes at `address`, which is a multiple of 256."""
    if hasattr(context, "set_device_memory"):  # it is there from 10.1 on
        context.set_device_memory(address, size)
    else:
        context.device_memory = address


def can_be_captured(context: Any, stream: int) -> bool:
    """Whether the next run of a context, with the shapes that it last ran with, can be captured on a stream.

    TensorRT has no such question: all that it runs can.
    """
    return not hasattr(context, "is_stream_capturable") or bool(context.is_stream_capturable(stream))


def refit(trt: Any, engine: Any, graph: Path) -> None:
    """Give an engine the weights of `graph`, none of its work being under way; its contexts stay valid.

    Raises:
        BackendError: this version cannot, or some weight is missing or does not fit.
    """
    if not hasattr(trt, "OnnxParserRefitter"):  # it is there from 10.0 on
        raise BackendError(f"TensorRT {trt.__version__} cannot take weights from a graph; build another engine")
    refitter = trt.Refitter(engine, logger(trt))
    parser = trt.OnnxParserRefitter(refitter, logger(trt))
    with errors_of(trt) as errors:
        taken = parser.refit_from_file(str(graph))
        missing = refitter.get_missing_weights() if taken else []
        fitted = taken and not missing and refitter.refit_cuda_engine()
    if missing:
        raise BackendError(f"{graph.name} lacks {len(missing)} weights of the engine, {missing[0]!r} among them")
    if not fitted:
        raise BackendError(f"TensorRT cannot take the weights of {graph.name}: {reason(errors)}")


def told(lines: list[str]) -> list[str]:
    """What of TensorRT's lines says something, each in one line."""
    return [" ".join(line.split()) for line in lines if line.strip() and _NOISE not in line]


def reason(errors: list[str]) -> str:
    """The last errors of TensorRT in one line."""
    return "; ".join(dict.fromkeys(errors[-3:])) or "it gave no reason"
