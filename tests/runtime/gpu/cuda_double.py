"""A double of the CUDA runtime and of what torch knows of captures, as unkind as they are.

A capture that is not ended for torch's allocator makes its next `empty_cache` assert; a device that is synchronised
inside a capture breaks it; nothing is captured on the default stream.
"""

import inspect
from typing import Any, ClassVar


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
