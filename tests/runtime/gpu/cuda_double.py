"""A double of the CUDA runtime and of what torch knows of captures, as unkind as they are.

A capture that is not ended for torch's allocator makes its next `empty_cache` assert; a device that is synchronised
inside a capture breaks it; nothing is captured on the default stream.
"""

import ctypes
import inspect
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar


@dataclass(frozen=True)
class Branches:
    """A conditional node: what is run is one of these, by the value of an int32 at an address."""

    address: int
    bodies: tuple[int, ...]  # graphs


class Runtime:
    """Hands out numbers for graphs, keeps what each is made of and runs through it.

    The selector of a branch is read from memory when a graph is launched.
    """

    cudaGraphNodeType = SimpleNamespace(cudaGraphNodeTypeConditional=13)  # noqa: N815 - the names are CUDA's
    cudaGraphConditionalNodeType = SimpleNamespace(cudaGraphCondTypeSwitch=2)  # noqa: N815

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.nodes: dict[int, list[tuple[list[int], Any]]] = {}  # of each graph: dependencies, and child or branches
        self.executable: dict[int, list[Any]] = {}  # the children in order; of branches, a tuple of such lists
        self._selectors: dict[int, int] = {}  # addresses, by the handle
        self.libraries: list[int] = []
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
        error, executable = self._result(self._number())
        self.executable |= {} if error else {executable: self._contents(graph)}
        return error, executable

    def _contents(self, graph: int) -> list[Any]:
        def content(child: Any) -> Any:
            if isinstance(child, Branches):
                return child.address, [self._contents(body) for body in child.bodies]
            return child

        return [content(child) for _, child in self.nodes[graph] if child is not None]

    def cudaGraphLaunch(self, executable: int, stream: int) -> tuple[Any, ...]:  # noqa: N802
        (error,) = self._result()
        self.launched += [] if error else [(self._taken(self.executable[executable]), stream)]
        return (error,)

    def _taken(self, contents: list[Any]) -> list[int]:
        taken: list[int] = []
        for child in contents:
            if isinstance(child, tuple):
                address, bodies = child
                choice = ctypes.c_int32.from_address(address).value
                taken += self._taken(bodies[choice]) if choice < len(bodies) else []
            else:
                taken.append(child)
        return taken

    def cudaLibraryLoadData(  # noqa: N802
        self, code: bytes, jit: Any, jit_values: Any, jits: int, options: Any, values: Any, count: int
    ) -> tuple[Any, ...]:
        assert code[:4] == b"\x7fELF"
        error, library = self._result(self._number())
        self.libraries += [] if error else [library]
        return error, library

    def cudaLibraryGetKernel(self, library: int, name: bytes) -> tuple[Any, ...]:  # noqa: N802
        assert library in self.libraries
        return self._result(10 * library)

    def cudaLibraryUnload(self, library: int) -> tuple[Any, ...]:  # noqa: N802
        assert not self.executable, "graphs run its kernel"
        self.libraries.remove(library)
        return self._result()

    def cudaGraphConditionalHandleCreate(self, graph: int, default: int, flags: int) -> tuple[Any, ...]:  # noqa: N802
        return self._result(self._number())

    def cudaGraphAddKernelNode(  # noqa: N802
        self, graph: int, dependencies: list[int], count: int, params: Any
    ) -> tuple[Any, ...]:
        assert len(dependencies) == count
        assert params.func // 10 in self.libraries
        (handle, address), types = params.kernelParams
        assert types == (ctypes.c_ulonglong, ctypes.c_void_p)
        assert (params.gridDim.x, params.blockDim.z) == (1, 1)
        self._selectors[handle] = address
        self.nodes[graph].append((list(dependencies), None))
        return self._result(1000 * graph + len(self.nodes[graph]))

    def cudaGraphAddNode(  # noqa: N802
        self, graph: int, dependencies: list[int], edges: None, count: int, params: Any
    ) -> tuple[Any, ...]:
        assert len(dependencies) == count
        assert (params.type, params.conditional.type) == (13, 2)
        bodies = [self._number() for _ in range(params.conditional.size)]
        self.nodes |= {body: [] for body in bodies}
        params.conditional.phGraph_out = bodies
        branches = Branches(self._selectors[params.conditional.handle], tuple(bodies))
        self.nodes[graph].append((list(dependencies), branches))
        return self._result(1000 * graph + len(self.nodes[graph]))

    def cudaKernelNodeParams(self) -> Any:  # noqa: N802
        return SimpleNamespace()

    def cudaGraphNodeParams(self) -> Any:  # noqa: N802
        return SimpleNamespace(conditional=SimpleNamespace())

    def dim3(self) -> Any:
        return SimpleNamespace()

    def cudaGraphExecDestroy(self, executable: int) -> tuple[Any, ...]:  # noqa: N802
        del self.executable[executable]
        return self._result()

    def cudaGraphDestroy(self, graph: int) -> tuple[Any, ...]:  # noqa: N802
        for _, child in self.nodes.pop(graph):
            for body in child.bodies if isinstance(child, Branches) else ():
                self.cudaGraphDestroy(body)
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
