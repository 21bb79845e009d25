"""CUDA graphs on a double of the runtime."""

from collections.abc import Callable, Iterator

import pytest
import torch

from deepcache_trt.runtime import cuda_graph
from deepcache_trt.runtime.cuda_graph import CudaGraphs
from tests.runtime.gpu.cuda_double import DEVICE, Allocator, Graph, Runtime, Stream


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    monkeypatch.setattr(Graph, "made", [])
    monkeypatch.setattr(Graph, "replayed", [])
    monkeypatch.setattr(Stream, "broken_at", 0)
    vars(DEVICE).update(vars(Allocator()))
    for name, double in {
        "CUDAGraph": Graph,
        "Stream": Stream,
        "stream": lambda stream: stream,
        "current_stream": lambda device: Stream,
        "synchronize": DEVICE.synchronize,
        "empty_cache": DEVICE.empty_cache,
        "graph_pool_handle": lambda: "own pool",
    }.items():
        monkeypatch.setattr(torch.cuda, name, double)
    monkeypatch.setattr(torch.cuda.memory, "_cuda_endAllocateToPool", DEVICE.end)
    monkeypatch.setattr(torch.cuda.memory, "_cuda_releasePool", DEVICE.release)
    cuda_graph._capture_stream.cache_clear()
    yield Runtime()
    cuda_graph._capture_stream.cache_clear()


@pytest.fixture
def graphs(runtime: Runtime) -> CudaGraphs:
    return CudaGraphs(torch.device("cuda", 0), runtime=runtime)  # type: ignore[arg-type]


def unit(name: str, log: list[str]) -> Callable[[], None]:
    return lambda: log.append(name)


@pytest.fixture
def ran() -> list[str]:
    return []


@pytest.fixture
def units(ran: list[str]) -> list[Callable[[], None]]:
    return [unit(name, ran) for name in ("full", "shallow", "update")]
