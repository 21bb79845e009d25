"""A double of TensorRT-RTX's execution API, which records every call: a machine without a GPU cannot load a plan.

It has no names but those of the real classes, which a test compares.
"""

from types import SimpleNamespace
from typing import Any

WORKSPACE = 4096


class Recorder:
    """What every class of the double shares: the log of all calls, and what shall fail."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.failing: set[str] = set()
        self.loadable = True
        self.missing_weights: list[str] = []
        self.int64 = "INT64"
        self.errors: Any = None

    def record(self, name: str, *args: Any) -> bool:
        self.calls.append((name, *args))
        if name in self.failing:
            self.errors.append(f"{name} went wrong")
        return name not in self.failing

    def take(self) -> list[tuple[Any, ...]]:
        """The calls since the last time."""
        taken, self.calls = self.calls, []
        return taken


class Context:
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        return self._recorder.record("set_optimization_profile_async", index, stream)

    def set_device_memory(self, address: int, size: int) -> None:
        self._recorder.record("set_device_memory", address, size)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        return self._recorder.record("set_input_shape", name, shape)

    def set_tensor_address(self, name: str, address: int) -> bool:
        return self._recorder.record("set_tensor_address", name, address)

    def execute_async_v3(self, stream: int) -> bool:
        return self._recorder.record("execute_async_v3", stream)


class RuntimeCache:
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def deserialize(self, blob: bytes) -> bool:
        return self._recorder.record("deserialize", blob)

    def serialize(self) -> bytes:
        return b"compiled kernels"


class RuntimeConfig:
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    dynamic_shapes_kernel_specialization_strategy = "lazy"

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        assert strategy == "user managed"

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache(self._recorder)

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        return self._recorder.record("set_runtime_cache")


class CudaEngine:
    device_memory_size_v2 = WORKSPACE
    num_io_tensors = 3
    refittable = True

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def get_tensor_name(self, index: int) -> str:
        return ["sample", "timestep", "out"][index]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=self._recorder.int64 if name == "timestep" else "FLOAT")

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig(self._recorder)

    def create_execution_context(self, config: RuntimeConfig) -> Context | None:
        assert config.dynamic_shapes_kernel_specialization_strategy == "eager"
        return Context(self._recorder) if self._recorder.record("create_execution_context") else None


class Runtime:
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def deserialize_cuda_engine(self, data: Any) -> CudaEngine | None:
        assert data[:] == b"a plan"
        return CudaEngine(self._recorder) if self._recorder.record("deserialize_cuda_engine") else None


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

    def refit_from_file(self, path: str) -> bool:
        return self._recorder.record("refit_from_file", path)


class Module:
    """Stands for `tensorrt_rtx`."""

    __name__ = "tensorrt_rtx"
    __version__ = "1.7.1"
    ILogger = type("ILogger", (), {})
    IRuntimeCache = RuntimeCache
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")

    def __init__(self, recorder: Recorder) -> None:
        self.Runtime = lambda logger: Runtime(recorder)
        self.Refitter = lambda engine, logger: Refitter(recorder)
        self.OnnxParserRefitter = lambda refitter, logger: OnnxParserRefitter(recorder)


REAL_NAMES: dict[type[object], str] = {
    Context: "IExecutionContext",
    RuntimeCache: "IRuntimeCache",
    RuntimeConfig: "IRuntimeConfig",
    CudaEngine: "ICudaEngine",
    Runtime: "Runtime",
    Refitter: "Refitter",
    OnnxParserRefitter: "OnnxParserRefitter",
}
