"""A double of TensorRT-RTX's execution API, which records every call: a machine without a GPU cannot load a plan.

Its names, arguments and results are those of the real classes, which a test compares, and it refuses what they refuse:
a shape outside the profile, a run before everything is set, work on another GPU than the engine's, and anything but a
run while a CUDA graph is captured.
"""

import ctypes
from types import SimpleNamespace
from typing import Any

WORKSPACE = 4096
KERNELS = b"compiled kernels"
ALIGNMENT = 256

# The smallest and the largest shape of each input, by profile; they are those of `doubled_engine`.
PROFILES = [
    {"sample": ((1, 4, 8, 8), (4, 4, 8, 8)), "timestep": ((1,), (1,))},
    {"sample": ((1, 4, 16, 16), (4, 4, 32, 32)), "timestep": ((1,), (1,))},
]
TENSORS = ["sample", "timestep", "out"]


class Recorder:
    """What every class of the double shares: the log of all calls, the state of the GPU, and what shall fail."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.failing: set[str] = set()
        self.missing_weights: list[str] = []
        self.int64 = "INT64"
        self.alignment = ALIGNMENT
        self.errors: Any = None
        self.device = self.engine_device = -1  # torch's current GPU, and that on which the plan was loaded
        self.capturing = False
        self.capturable = True  # whether contexts say that they can be captured
        self.kernels = KERNELS  # what the runtime cache holds

    def record(self, name: str, *args: Any, refused: str = "") -> bool:
        """Log a call; False if it shall fail, or if it is `refused`, for this reason."""
        self.calls.append((name, *args))
        assert self.device == self.engine_device, f"{name} on GPU {self.device}, the engine is on {self.engine_device}"
        assert not self.capturing or name == "execute_async_v3", f"{name} during a capture"
        if name in self.failing:
            refused = f"{name} went wrong"
        if refused:
            self.errors.append(refused)
        return not refused

    def take(self) -> list[tuple[Any, ...]]:
        """The calls since the last time."""
        taken, self.calls = self.calls, []
        return taken


class HostMemory(ctypes.Structure):
    """Memory of TensorRT's: it has a size and a buffer, and is no bytes."""

    nbytes = 0


def host_memory(content: bytes) -> HostMemory:
    """Only classes of C can have a buffer before Python 3.12, and ctypes fixes its size in the class."""
    fields = {"_fields_": [("_content", ctypes.c_char * len(content))], "nbytes": len(content)}
    kind: type[HostMemory] = type("HostMemory", (HostMemory,), fields)
    return kind.from_buffer_copy(content)


class Context:
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._profile = 0
        self._memory = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        refused = "" if profile_index in range(len(PROFILES)) else f"no profile {profile_index}"
        if not refused and profile_index != self._profile:
            self._profile, self._shapes = profile_index, {}  # shapes belong to a profile
        return self._recorder.record("set_optimization_profile_async", profile_index, stream_handle, refused=refused)

    def set_device_memory(self, memory: int, size: int) -> None:
        refused = "" if memory % ALIGNMENT == 0 and size >= WORKSPACE else f"{size} bytes at {memory} are no workspace"
        if self._recorder.record("set_device_memory", memory, size, refused=refused):
            self._memory = memory

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        done = self._recorder.record("set_input_shape", name, shape, refused=self._refused(name, shape))
        if done:
            self._shapes[name] = shape
        return done

    def set_tensor_address(self, name: str, memory: int) -> bool:
        refused = "" if name in TENSORS else f"no tensor {name}"
        if memory % self._recorder.alignment:
            refused = f"{memory} is not aligned"
        done = self._recorder.record("set_tensor_address", name, memory, refused=refused)
        if done:
            self._addresses[name] = memory
        return done

    def is_stream_capturable(self, stream: int) -> bool:
        self._recorder.record("is_stream_capturable", stream)
        return self._recorder.capturable

    def execute_async_v3(self, stream_handle: int) -> bool:
        missing = [name for name in PROFILES[self._profile] if name not in self._shapes]
        missing += [f"&{name}" for name in TENSORS if name not in self._addresses]
        missing += [] if self._memory else ["memory"]
        if self._recorder.capturing and not self._recorder.capturable:
            missing.append("a way to be captured")
        return self._recorder.record(
            "execute_async_v3", stream_handle, refused=f"lacks {', '.join(missing)}" if missing else ""
        )

    def _refused(self, name: str, shape: tuple[int, ...]) -> str:
        if name not in PROFILES[self._profile]:
            return f"{name} is no input"
        smallest, largest = PROFILES[self._profile][name]
        fits = len(shape) == len(smallest) and all(
            low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True)
        )
        return "" if fits else f"{name} {shape} is outside profile {self._profile}"


class RuntimeCache:
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def deserialize(self, blob: Any) -> bool:
        return self._recorder.record("deserialize", bytes(blob), refused="" if len(blob) else "no blob")

    def serialize(self) -> HostMemory | None:
        return host_memory(self._recorder.kernels) if self._recorder.record("serialize") else None


class RuntimeConfig:
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    dynamic_shapes_kernel_specialization_strategy = "lazy"

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        assert strategy == "user managed"

    def create_runtime_cache(self) -> RuntimeCache | None:
        return RuntimeCache(self._recorder) if self._recorder.record("create_runtime_cache") else None

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        assert isinstance(cache, RuntimeCache)
        return self._recorder.record("set_runtime_cache")


class CudaEngine:
    device_memory_size_v2 = WORKSPACE
    num_io_tensors = len(TENSORS)
    refittable = True

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def get_tensor_name(self, index: int) -> str:
        return TENSORS[index]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=self._recorder.int64 if name == "timestep" else "FLOAT")

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig(self._recorder)

    def create_execution_context(self, runtime_config: RuntimeConfig) -> Context | None:
        assert runtime_config.dynamic_shapes_kernel_specialization_strategy == "eager"
        return Context(self._recorder) if self._recorder.record("create_execution_context") else None


class Runtime:
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def deserialize_cuda_engine(self, serialized_engine: Any) -> CudaEngine | None:
        self._recorder.engine_device = self._recorder.device
        loads = bytes(memoryview(serialized_engine)) == b"a plan"
        done = self._recorder.record("deserialize_cuda_engine", refused="" if loads else "no plan")
        return CudaEngine(self._recorder) if done else None


class Refitter:
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def get_missing_weights(self) -> list[str]:
        return self._recorder.missing_weights

    def refit_cuda_engine(self) -> bool:
        return self._recorder.record("refit_cuda_engine")


class OnnxParserRefitter:
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def refit_from_file(self, model: str) -> bool:
        return self._recorder.record("refit_from_file", model)


class Module:
    """Stands for `tensorrt_rtx`."""

    __name__ = "tensorrt_rtx"
    __version__ = "1.7.1"
    ILogger = type("ILogger", (), {})
    IRuntimeCache = RuntimeCache
    ComputeCapability = SimpleNamespace(__members__={"NONE": 0, "CURRENT": 1, "SM86": 2, "SM120": 3})
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")

    def __init__(self, recorder: Recorder) -> None:
        self.Runtime = lambda logger: Runtime(recorder)
        self.Refitter = lambda engine, logger: Refitter(recorder)
        self.OnnxParserRefitter = lambda refitter, logger: OnnxParserRefitter(recorder)


REAL_NAMES: dict[type[object], str] = {
    Context: "IExecutionContext",
    HostMemory: "IHostMemory",
    RuntimeCache: "IRuntimeCache",
    RuntimeConfig: "IRuntimeConfig",
    CudaEngine: "ICudaEngine",
    Runtime: "Runtime",
    Refitter: "Refitter",
    OnnxParserRefitter: "OnnxParserRefitter",
}
