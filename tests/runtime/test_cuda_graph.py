"""CUDA graphs: what is asked of the runtime, in which order, and what happens where it refuses.

A recording double stands for the CUDA runtime and torch's allocator, and is as unkind as they are: a capture that is
not ended for the allocator makes its next `empty_cache` assert, a device that is synchronised or a second stream's
default inside a capture ends it. That the double promises no more than the real ones have is checked too. What only a
GPU can show is in `gpu_check`.
"""

import gc
import inspect
import logging
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
import torch

from deepcache_trt.errors import BackendError
from deepcache_trt.runtime import cuda_graph
from deepcache_trt.runtime.cuda_graph import CudaGraphs, compose


class Runtime:
    """Hands out numbers for graphs and keeps what each is made of."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.nodes: dict[int, list[tuple[list[int], int]]] = {}  # of each graph: dependencies and child
        self.executable: dict[int, list[int]] = {}  # the children in order
        self.launched: list[tuple[list[int], int]] = []
        self.fails_in = ""
        self._next = 100

    def _result(self, *results: Any) -> tuple[Any, ...]:
        name = inspect.stack()[1].function
        self.calls.append(name)
        return (901 if name == self.fails_in else 0, *results)

    def _number(self) -> int:
        self._next += 1
        return self._next

    def cudaGraph_t(self, address: int) -> int:  # noqa: N802 - the names are CUDA's
        return address

    def cudaStream_t(self, address: int) -> int:  # noqa: N802
        return address

    def cudaGraphCreate(self, flags: int) -> tuple[Any, ...]:  # noqa: N802
        graph = self._number()
        self.nodes[graph] = []
        return self._result(graph)

    def cudaGraphAddChildGraphNode(  # noqa: N802
        self, graph: int, dependencies: list[int], count: int, child: int
    ) -> tuple[Any, ...]:
        assert len(dependencies) == count
        self.nodes[graph].append((list(dependencies), child))
        return self._result(1000 * graph + len(self.nodes[graph]))

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[Any, ...]:  # noqa: N802
        executable = self._number()
        self.executable[executable] = [child for _, child in self.nodes[graph]]
        return self._result(executable)

    def cudaGraphLaunch(self, executable: int, stream: int) -> tuple[Any, ...]:  # noqa: N802
        self.launched.append((self.executable[executable], stream))
        return self._result()

    def cudaGraphExecDestroy(self, executable: int) -> tuple[Any, ...]:  # noqa: N802
        del self.executable[executable]
        return self._result()

    def cudaGraphDestroy(self, graph: int) -> tuple[Any, ...]:  # noqa: N802
        del self.nodes[graph]
        return self._result()


class Allocator:
    """What torch's caching allocator and the streams of a device know of captures."""

    def __init__(self) -> None:
        self.underway: list[Any] = []  # pools that something is allocated to
        self.uses: dict[Any, int] = {}  # of each pool
        self.capturing: Graph | None = None
        self.current: Stream | None = None
        self.streams = 0

    def begin(self, pool: Any) -> None:
        self.underway.append(pool)
        self.uses[pool] = self.uses.get(pool, 0) + 1

    def end(self, device: int, pool: Any) -> None:
        if pool not in self.underway:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.underway.remove(pool)

    def release(self, device: int, pool: Any) -> None:
        self.uses[pool] -= 1

    def empty_cache(self) -> None:
        if self.underway:
            raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")

    def synchronize(self, device: Any = None) -> None:
        if self.capturing is not None:
            self.capturing.is_broken = True
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")


DEVICE = Allocator()


class Graph:
    """Stands for torch.cuda.CUDAGraph: its address counts up, and a unit may be one that cannot be recorded."""

    made: ClassVar[list["Graph"]] = []
    replayed: ClassVar[list[int]] = []

    def __init__(self, keep_graph: bool) -> None:
        assert keep_graph, "the graph itself is needed to compose"
        self.made.append(self)
        self.address = len(self.made)
        self.pools: list[Any] = []
        self.is_broken = self.has_ended = False

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global") -> None:
        assert capture_error_mode == "thread_local"
        if DEVICE.current is None:
            raise RuntimeError("CUDA graphs must be captured on a non-default stream.")
        self.pools.append(pool)
        DEVICE.begin(pool)
        DEVICE.capturing = self

    def capture_end(self) -> None:
        if DEVICE.capturing is not self:
            raise RuntimeError("CUDA error: illegal state")
        DEVICE.capturing = None
        if self.is_broken or len(self.made) == Stream.broken_at:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture\nmore")
        DEVICE.end(0, self.pools[-1])
        self.has_ended = True

    def instantiate(self) -> None:
        assert self.has_ended

    def raw_cuda_graph(self) -> int:
        return self.address

    def replay(self) -> None:
        self.replayed.append(self.address)


class Stream:
    """A stream of torch's, as a context too."""

    broken_at = 0
    cuda_stream = 7

    def __init__(self, device: Any = None) -> None:
        DEVICE.streams += 1

    def __enter__(self) -> "Stream":
        DEVICE.current = self
        return self

    def __exit__(self, *error: object) -> None:
        DEVICE.current = None


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


def test_a_plan_becomes_a_chain_of_its_units(runtime: Runtime, units: list[Callable[[], None]]) -> None:
    full, shallow, update = units
    order = [update, shallow, update, shallow, update, full, update]
    executable = compose(runtime, {full: 1, shallow: 2, update: 3}, order)
    assert runtime.executable[executable] == [3, 2, 3, 2, 3, 1, 3]
    assert not runtime.nodes, "what was instantiated needs its graph no more"


def test_each_unit_waits_for_the_one_before(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[list[tuple[list[int], int]]] = []
    instantiate = runtime.cudaGraphInstantiate

    def noting(graph: int, flags: int) -> tuple[Any, ...]:
        kept.append(runtime.nodes[graph])
        return instantiate(graph, flags)

    monkeypatch.setattr(runtime, "cudaGraphInstantiate", noting)
    first, second = (lambda: None), (lambda: None)
    compose(runtime, {first: 1, second: 2}, [first, second, first])
    ((_, *waiting),) = kept
    assert [dependencies for dependencies, _ in kept[0]] == [[], *([101_001 + i] for i in range(len(waiting)))]


@pytest.mark.parametrize("call", ["cudaGraphAddChildGraphNode", "cudaGraphInstantiate"])
def test_a_graph_that_cannot_be_composed_is_destroyed_and_the_call_is_named(runtime: Runtime, call: str) -> None:
    runtime.fails_in = call
    with pytest.raises(BackendError, match=f"{call} failed: 901"):
        compose(runtime, {print: 1}, [print])
    assert not runtime.nodes


def test_what_is_not_recorded_is_not_launched(
    graphs: CudaGraphs, runtime: Runtime, units: list[Callable[[], None]], ran: list[str]
) -> None:
    assert not graphs.launch(units)
    graphs.record(units[:2])
    assert not graphs.launch(units)
    assert not runtime.launched
    assert ran == ["full", "shallow"]


def test_a_unit_is_recorded_once_and_all_share_one_pool(
    graphs: CudaGraphs, units: list[Callable[[], None]], ran: list[str]
) -> None:
    assert graphs.recording_seconds == 0
    graphs.record([*units, *units])
    graphs.record(units)
    assert graphs.recording_seconds > 0
    assert ran == ["full", "shallow", "update"]
    assert [graph.pools for graph in Graph.made] == [["own pool"]] * 3
    assert DEVICE.streams == 1, "each stream takes another workspace of cuBLAS"


def test_a_plan_is_composed_once_and_launched_as_one_on_the_current_stream(
    graphs: CudaGraphs, runtime: Runtime, units: list[Callable[[], None]], ran: list[str]
) -> None:
    graphs.record(units)
    full, shallow, update = units
    orders = [update, shallow, update], [update, full, update]
    for order in orders * 2:
        assert graphs.launch(order)
    assert Graph.replayed == [3, 2, 3, 3, 1, 3], "a plan is composed while its first image is drawn"
    assert runtime.launched == [([3, 2, 3], 7), ([3, 1, 3], 7)]
    assert runtime.calls.count("cudaGraphInstantiate") == 2
    assert len(Graph.made) == len(ran) == 3, "another plan records nothing"


@pytest.mark.parametrize("call", ["cudaGraphAddChildGraphNode", "cudaGraphInstantiate"])
def test_what_cannot_be_composed_is_launched_singly_and_said_once(
    graphs: CudaGraphs,
    runtime: Runtime,
    units: list[Callable[[], None]],
    caplog: pytest.LogCaptureFixture,
    call: str,
) -> None:
    graphs.record(units)
    runtime.fails_in = call
    for _ in range(3):
        assert graphs.launch(units)
    assert Graph.replayed == [1, 2, 3] * 3
    assert caplog.messages == [f"recorded steps are launched one by one, not as one graph: {call} failed: 901"]
    assert not runtime.nodes


def test_a_single_unit_is_replayed_as_it_is(
    graphs: CudaGraphs, runtime: Runtime, units: list[Callable[[], None]]
) -> None:
    graphs.record(units)
    assert graphs.launch(units[1:2])
    assert (Graph.replayed, runtime.calls) == ([2], [])


def test_without_cuda_bindings_units_are_replayed_one_by_one(
    runtime: Runtime, units: list[Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graph, "_cuda_bindings", lambda: None)
    graphs = CudaGraphs(torch.device("cuda", 0))
    graphs.record(units)
    assert graphs.launch([units[2], units[0], units[2]])
    assert Graph.replayed == [3, 1, 3]
    graphs.close()


def test_only_the_last_few_plans_are_kept(
    graphs: CudaGraphs, runtime: Runtime, units: list[Callable[[], None]]
) -> None:
    graphs.record(units)
    for length in range(2, 2 + cuda_graph._PLANS_KEPT + 3):
        graphs.launch(units[:1] * length)
        graphs.launch(units[:1] * length)
    assert sorted(map(len, runtime.executable.values())) == list(range(5, 5 + cuda_graph._PLANS_KEPT))


def test_a_unit_that_cannot_be_recorded_ends_recording_and_is_said_once(
    graphs: CudaGraphs,
    runtime: Runtime,
    units: list[Callable[[], None]],
    ran: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    Stream.broken_at = 2
    with caplog.at_level(logging.WARNING, logger=cuda_graph.__name__):
        graphs.record(units)
        graphs.record(units)
    assert ran == ["full", "shallow"]
    assert not graphs.launch(units)
    assert graphs.launch(units[:1]), "what was recorded before is whole"
    [message] = caplog.messages
    assert message == (
        "no CUDA graphs for these shapes, every step is launched by itself: "
        "CUDA error: operation failed due to a previous error during capture"
    )


def synchronises() -> None:
    torch.cuda.synchronize()


def raises(error: Exception) -> Callable[[], None]:
    def unit() -> None:
        raise error

    return unit


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (raises(BackendError("TensorRT could not run the engine")), "TensorRT could not run the engine"),
        (raises(AssertionError("guard")), "guard"),
        (raises(torch._dynamo.exc.FailOnRecompileLimitHit("recompile_limit")), "recompile_limit"),
        (synchronises, "CUDA error: operation not permitted when stream is capturing"),
    ],
    ids=["an engine", "an assertion", "torch's compiler", "a synchronisation"],
)
def test_a_capture_that_fails_leaves_torch_as_it_was(
    graphs: CudaGraphs,
    units: list[Callable[[], None]],
    caplog: pytest.LogCaptureFixture,
    bad: Callable[[], None],
    reason: str,
) -> None:
    graphs.record([units[0], bad, units[1]])
    torch.cuda.empty_cache()
    assert DEVICE.capturing is None
    assert not graphs.launch([bad])
    assert reason in caplog.text
    other = CudaGraphs(torch.device("cuda", 0), runtime=Runtime())  # type: ignore[arg-type]
    other.record(units[1:])
    assert other.launch(units[1:]), "other shapes are recorded as before"


def test_a_capture_that_never_begins_is_no_error_either(graphs: CudaGraphs, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(graph: Graph, pool: Any, capture_error_mode: str) -> None:
        DEVICE.begin(pool)
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(Graph, "capture_begin", begin)
    graphs.record([print])
    torch.cuda.empty_cache()
    assert not graphs.launch([print])


def test_an_interrupted_capture_is_ended_and_the_interruption_goes_on(graphs: CudaGraphs) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        graphs.record([interrupted])
    torch.cuda.empty_cache()
    assert DEVICE.capturing is None


class Finalized:
    """What closes a session when it is collected, in a cycle so that only the collector can."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        torch.cuda.synchronize()


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_nothing_is_collected_inside_a_capture(graphs: CudaGraphs, units: list[Callable[[], None]]) -> None:
    def makes_garbage() -> None:
        Finalized()
        [[] for _ in range(100_000)]  # more than the collector waits for

    graphs.record([makes_garbage, *units])
    assert graphs.launch(units)
    assert gc.isenabled()


def test_close_destroys_every_graph(graphs: CudaGraphs, runtime: Runtime, units: list[Callable[[], None]]) -> None:
    graphs.record(units)
    graphs.launch(units)
    assert runtime.executable
    graphs.close()
    assert not runtime.executable
    assert not graphs.launch(units)


def test_the_double_has_no_call_that_cuda_lacks() -> None:
    real = pytest.importorskip("cuda.bindings.runtime")
    for name, function in inspect.getmembers(Runtime, inspect.isfunction):
        if name.startswith("cuda") and not name.endswith("_t"):
            arguments = (getattr(real, name).__doc__ or "").split("(")[1].split(")")[0]
            taken = len(arguments.split(",")) if arguments else 0
            assert taken == len(inspect.signature(function).parameters) - 1, name
        elif name.startswith("cuda"):
            assert int(getattr(real, name)(7)) == 7


def test_torch_has_what_is_asked_of_its_graphs() -> None:
    wanted = {name for name in vars(Graph) if not name.startswith("_")} - {"made", "replayed"}
    assert wanted <= set(dir(torch.cuda.CUDAGraph))
    for name in wanted:
        real, double = (inspect.signature(getattr(each, name)).parameters for each in (torch.cuda.CUDAGraph, Graph))
        assert set(double) <= set(real), name
    assert "keep_graph" in inspect.signature(torch.cuda.CUDAGraph.__new__).parameters
    assert inspect.signature(torch.cuda.graph_pool_handle).parameters == {}
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        assert hasattr(torch.cuda.memory, name), name
