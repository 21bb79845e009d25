"""CUDA graphs: what is asked of the runtime, in which order, and what happens where it refuses.

A recording double stands for the CUDA runtime and for torch; that it promises no more than the real ones have is
checked too. What only a GPU can show is in `gpu_check`.
"""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch

from deepcache_trt.errors import BackendError
from deepcache_trt.runtime import cuda_graph
from deepcache_trt.runtime.cuda_graph import CudaGraphs, compose
from tests.runtime.gpu.cuda_double import DEVICE, Graph, Runtime


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


@pytest.mark.parametrize("call", ["cudaGraphAddChildGraphNode", "cudaGraphInstantiate", "cudaGraphLaunch"])
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
        if name.startswith("cuda") and not name.endswith(("_t", "Params")):
            arguments = (getattr(real, name).__doc__ or "").split("(")[1].split(")")[0]
            taken = len(arguments.split(",")) if arguments else 0
            assert taken == len(inspect.signature(function).parameters) - 1, name
        elif name.endswith("_t"):
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
