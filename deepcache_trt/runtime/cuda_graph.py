"""CUDA graphs: units of work, recorded once each and launched together in whatever order a plan wants.

A unit is a function that always does the same on the same memory. Its recording becomes a child of a larger graph, one
for each order, so that a whole generation is a single launch. Where what runs is decided on the device, the order has
switches, which a graph can follow and the host cannot.
"""

import functools
import gc
import logging
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from deepcache_trt.errors import BackendError, first_line
from deepcache_trt.runtime.switch import Selector, Step, Switch, Unit, call, units_of

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)

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
        self._composed: OrderedDict[tuple[Step, ...], Any] = OrderedDict()  # executable graphs
        self._selector: Selector | None = None  # loaded for the first switch
        self._refused: set[bool] = (
            set()
        )  # the kinds of orders that CUDA makes no graph of: without a switch, or with one
        self._is_usable = True
        self.recording_seconds = 0.0

    def launch(self, steps: Sequence[Step]) -> bool:
        """Enqueue the steps on the current stream, if all their units are recorded; else do nothing and say so.

        Steps with a switch among them are enqueued as one graph or not at all.
        """
        order = tuple(steps)
        if not all(unit in self._units for unit in units_of(order)):
            return False
        if _has_switch(order):
            self._compose(order)
            return self._launch_composed(order)
        if not self._launch_composed(order):
            for unit in units_of(order):
                self._units[unit].replay()
            self._compose(order)  # for the next time, while the GPU has work
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
        for order in [*self._composed]:
            self._destroy(order)
        if self._selector is not None:
            self._selector.close()
            self._selector = None
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

    def _launch_composed(self, order: tuple[Step, ...]) -> bool:
        """Enqueue the graph of the steps, if there is one and CUDA takes it."""
        import torch

        if order not in self._composed:
            return False
        self._composed.move_to_end(order)
        stream = self._runtime.cudaStream_t(torch.cuda.current_stream(self._device).cuda_stream)
        try:
            call(self._runtime.cudaGraphLaunch, self._composed[order], stream)
        except BackendError as error:
            self._refuse(order, error)
            return False
        return True

    def _compose(self, order: tuple[Step, ...]) -> None:
        """Make one graph of the steps, unless there is one, that has been refused before or is not worth it."""
        is_refused = _has_switch(order) in self._refused
        if self._runtime is None or is_refused or order in self._composed or len(order) == 1:
            return
        children = {unit: self._units[unit].raw_cuda_graph() for unit in units_of(order)}
        try:
            if _has_switch(order) and self._selector is None:
                self._selector = Selector(self._runtime, self._device)
            self._composed[order] = compose(self._runtime, children, order, self._selector)
        except (BackendError, AttributeError) as error:  # bindings of an older CUDA lack what a switch is made with
            self._refuse(order, error)
        if len(self._composed) > _PLANS_KEPT:
            self._destroy(next(iter(self._composed)))

    def _refuse(self, order: tuple[Step, ...], error: Exception) -> None:
        """Make no more graphs of the kind of these steps, with a switch or without, and keep none."""
        kind = _has_switch(order)
        self._refused.add(kind)
        for each in [each for each in self._composed if _has_switch(each) == kind]:
            self._destroy(each)
        instead = "what a rule decides is read call by call" if kind else "recorded steps are launched one by one"
        _log.warning("%s, not as one graph: %s", instead, first_line(error))

    def _destroy(self, order: tuple[Step, ...]) -> None:
        import torch

        torch.cuda.synchronize(self._device)  # it may still be running
        call(self._runtime.cudaGraphExecDestroy, self._composed.pop(order))


def _has_switch(order: Sequence[Step]) -> bool:
    return any(isinstance(step, Switch) for step in order)


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


def compose(runtime: Any, children: Mapping[Unit, int], order: Sequence[Step], selector: Selector | None = None) -> Any:
    """One executable graph that runs the steps one after the other.

    Args:
        runtime: `cuda.bindings.runtime`.
        children: the address of each unit's cudaGraph_t; they are copied, and so may be destroyed, but not the memory
            that they work on.
        order: of the steps, with repetitions.
        selector: for switches among them.
    """
    whole = call(runtime.cudaGraphCreate, 0)
    try:
        _append(runtime, whole, children, order, selector)
        return call(runtime.cudaGraphInstantiate, whole, 0)
    finally:
        call(runtime.cudaGraphDestroy, whole)


def _append(
    runtime: Any, graph: Any, children: Mapping[Unit, int], order: Sequence[Step], selector: Selector | None
) -> None:
    """Fill a graph with a chain of steps."""
    previous: list[Any] = []
    for step in order:
        if isinstance(step, Switch):
            assert selector is not None, "a switch needs what reads it"
            node, bodies = selector.add_to(graph, previous, step)
            for body, branch in zip(bodies, step.branches, strict=True):
                _append(runtime, body, children, branch, selector)
        else:
            child = runtime.cudaGraph_t(children[step])
            node = call(runtime.cudaGraphAddChildGraphNode, graph, previous, len(previous), child)
        previous = [node]


def _cuda_bindings() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError:
        _log.info("cuda-bindings is not installed: steps are launched one by one; pip install 'deepcache-trt[cuda]'")
        return None
    return runtime
