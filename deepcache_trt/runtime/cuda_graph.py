"""CUDA graphs: units of work, recorded once each and launched together in whatever order a plan wants.

A unit is a function that always does the same on the same memory. Its recording becomes a child of a larger graph, one
for each order, so that a whole generation is a single launch.
"""

import functools
import gc
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from deepcache_trt.errors import BackendError, first_line

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)

Unit = Callable[[], None]

# Composed graphs are kept, one for each plan; each takes some MB on the host.
_PLANS_KEPT = 8


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """How many units are recorded, how many plans are composed of them, and how long recording took."""

    units: int
    plans: int
    seconds: float


class CudaGraphs:
    """The recordings of one set of addresses."""

    def __init__(self, device: "torch.device", *, runtime: ModuleType | None = None) -> None:
        """Nothing is recorded yet.

        Args:
            device: the GPU.
            runtime: `cuda.bindings.runtime`, or None to take what is installed; without it units are launched singly.
        """
        self._device = device
        self._runtime = runtime or _cuda_bindings()
        self._pool: Any = None  # of torch's allocator, for what units allocate
        self._units: dict[Unit, torch.cuda.CUDAGraph] = {}
        self._failed: list[torch.cuda.CUDAGraph] = []  # see `_abandon`
        self._composed: OrderedDict[tuple[Unit, ...], Any] = OrderedDict()  # executable graphs
        self._is_usable = self._can_compose = True
        self.recording_seconds = 0.0

    def launch(self, units: Sequence[Unit]) -> bool:
        """Enqueue the units on the current stream, if all of them are recorded; else do nothing and say so."""
        import torch

        if not all(unit in self._units for unit in units):
            return False
        if self._can_compose and tuple(units) in self._composed:
            self._composed.move_to_end(tuple(units))
            stream = self._runtime.cudaStream_t(torch.cuda.current_stream(self._device).cuda_stream)
            try:
                _call(self._runtime.cudaGraphLaunch, self._composed[tuple(units)], stream)
            except BackendError as error:
                self._stop_composing(error)
            else:
                return True
        for unit in units:
            self._units[unit].replay()
        self._compose(tuple(units))  # for the next time, while the GPU has work
        return True

    def record(self, units: Sequence[Unit]) -> None:
        """Record the units that are not yet; each has just run, so that whatever happens only once is over.

        A unit that cannot be recorded is said so in the log, once, and nothing is recorded from then on.
        """
        new = [unit for unit in dict.fromkeys(units) if unit not in self._units]
        if not (new and self._is_usable):
            return
        started = time.perf_counter()
        try:
            with _without_collection():
                for unit in new:
                    self._units[unit] = self._record(unit)
        except Exception as error:  # whatever a unit does not bear, it was run without being recorded
            self._is_usable = False
            _log.warning("no CUDA graphs for these shapes, every step is launched by itself: %s", first_line(error))
        self.recording_seconds += time.perf_counter() - started

    @property
    def recorded(self) -> Recorded:
        """What there is."""
        return Recorded(units=len(self._units), plans=len(self._composed), seconds=self.recording_seconds)

    def close(self) -> None:
        """Destroy every graph, after what was launched has ended."""
        import torch

        if self._units:
            torch.cuda.synchronize(self._device)
        while self._composed:
            _call(self._runtime.cudaGraphExecDestroy, self._composed.popitem()[1])
        self._units.clear()

    def _record(self, unit: Unit) -> "torch.cuda.CUDAGraph":
        """What `unit` enqueues, on a stream for that; whatever else this process does on the GPU is left alone."""
        import torch

        graph = torch.cuda.CUDAGraph(keep_graph=True)
        torch.cuda.synchronize(self._device)
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        with torch.cuda.stream(_capture_stream(self._device)):
            try:
                graph.capture_begin(self._pool, capture_error_mode="thread_local")
                unit()
                graph.capture_end()
            except BaseException:
                with suppress(RuntimeError):
                    graph.capture_end()
                self._abandon(graph)
                raise
        graph.instantiate()
        return graph

    def _abandon(self, graph: "torch.cuda.CUDAGraph") -> None:
        """End for torch's allocator what a failed capture left begun, else `torch.cuda.empty_cache` asserts.

        The graph must outlive it: torch's allocator of pinned memory goes on asking it whether a stream is its own.
        """
        from torch.cuda import memory

        self._failed.append(graph)
        index = self._device.index if self._device.index is not None else memory.current_device()
        with suppress(RuntimeError):  # it was not begun, or it was ended in order
            memory._cuda_endAllocateToPool(index, self._pool)  # type: ignore[attr-defined]  # torch has no public way
            memory._cuda_releasePool(index, self._pool)  # type: ignore[attr-defined]

    def _compose(self, units: tuple[Unit, ...]) -> None:
        """Make one graph of the units, unless that has been refused before or is not worth it."""
        if self._runtime is None or not self._can_compose or len(units) == 1:
            return
        children = {unit: self._units[unit].raw_cuda_graph() for unit in units}
        try:
            self._composed[units] = compose(self._runtime, children, units)
        except BackendError as error:
            self._stop_composing(error)
        if len(self._composed) > _PLANS_KEPT:
            import torch

            torch.cuda.synchronize(self._device)  # it may still be running
            _call(self._runtime.cudaGraphExecDestroy, self._composed.popitem(last=False)[1])

    def _stop_composing(self, error: BackendError) -> None:
        self._can_compose = False
        _log.warning("recorded steps are launched one by one, not as one graph: %s", error)


@functools.cache
def _capture_stream(device: "torch.device") -> "torch.cuda.Stream":
    """One for all captures: for each stream, cuBLAS takes another workspace from the pool."""
    import torch

    return torch.cuda.Stream(device)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Collect garbage now and none inside: a session that is closed by it synchronises, which ends a capture."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def compose(runtime: Any, children: Mapping[Unit, int], order: Sequence[Unit]) -> Any:
    """One executable graph that runs the children one after the other.

    Args:
        runtime: `cuda.bindings.runtime`.
        children: the address of each unit's cudaGraph_t; they are copied, and so may be destroyed, but not the memory
            that they work on.
        order: of the units, with repetitions.
    """
    whole = _call(runtime.cudaGraphCreate, 0)
    try:
        previous: list[Any] = []
        for unit in order:
            child = runtime.cudaGraph_t(children[unit])
            previous = [_call(runtime.cudaGraphAddChildGraphNode, whole, previous, len(previous), child)]
        return _call(runtime.cudaGraphInstantiate, whole, 0)
    finally:
        _call(runtime.cudaGraphDestroy, whole)


def _call(function: Callable[..., tuple[Any, ...]], *args: Any) -> Any:
    """The result of a call of the CUDA runtime; its first one is the error."""
    error, *results = function(*args)
    if int(error) != 0:
        raise BackendError(f"{function.__name__} failed: {getattr(error, 'name', error)}")
    return results[0] if results else None


def _cuda_bindings() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError:
        _log.info("cuda-bindings is not installed: steps are launched one by one; pip install 'deepcache-trt[cuda]'")
        return None
    return runtime
