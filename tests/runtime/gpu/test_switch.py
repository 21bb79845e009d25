"""Branches inside of a CUDA graph: the kernel is compiled, the rest is asked of a double of the runtime.

That the double asks for no more than the bindings have is checked on the bindings themselves, which need no GPU for it.
What only a GPU can show is in `gpu_check`.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import pytest
import torch

from deepcache_trt.errors import BackendError
from deepcache_trt.runtime import switch
from deepcache_trt.runtime.cuda_graph import CudaGraphs, compose
from deepcache_trt.runtime.switch import Step, Switch, compiled, units_of
from tests.runtime.gpu.cuda_double import Graph, Runtime

Units = list[Callable[[], None]]

FULL, SHALLOW, UPDATE = 1, 2, 3  # the addresses of the recordings


@pytest.fixture(autouse=True)
def _hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))


@pytest.fixture
def choice() -> torch.Tensor:
    return torch.zeros(1, dtype=torch.int32)


@pytest.fixture
def chosen(units: Units, choice: torch.Tensor) -> Switch:
    """Everything, the cheap call twice, or nothing."""
    full, shallow, _ = units
    return Switch(address=choice.data_ptr(), branches=((full,), (shallow, shallow), ()))


# The kernel.


@pytest.mark.parametrize("architecture", ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"])
def test_the_kernel_compiles_for_every_gpu_in_use_without_one(architecture: str) -> None:
    code = compiled(architecture)
    assert code.startswith(b"\x7fELF")
    for name in (b"select_branch", b"cudaGraphSetConditional"):
        assert name in code


def test_an_architecture_that_there_is_not_is_an_error_of_the_backend() -> None:
    with pytest.raises(BackendError, match=r"nvrtcCompileProgram failed: NVRTC_ERROR_INVALID_OPTION"):
        compiled("sm_12345")


# What is composed.


def test_each_launch_takes_the_branch_that_the_number_says_then(
    graphs: CudaGraphs, runtime: Runtime, units: Units, chosen: Switch, choice: torch.Tensor
) -> None:
    graphs.record(units)
    order: list[Step] = [units[2], chosen, units[2], chosen, units[2]]
    for number, taken in enumerate([[FULL], [SHALLOW, SHALLOW], [], []]):  # of a number beyond the last none
        choice.fill_(number)
        assert graphs.launch(order)
        assert runtime.launched[-1] == ([UPDATE, *taken, UPDATE, *taken, UPDATE], 7)
    assert runtime.calls.count("cudaGraphInstantiate") == 1
    assert Graph.replayed == []
    assert len(runtime.libraries) == 1, "one kernel for all"
    assert not runtime.nodes


def test_a_choice_waits_for_what_is_before_it_and_holds_up_what_comes_after(
    graphs: CudaGraphs, runtime: Runtime, units: Units, chosen: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[dict[int, Any]] = []
    instantiate = runtime.cudaGraphInstantiate

    def noting(graph: int, flags: int) -> tuple[Any, ...]:
        kept.append(dict(runtime.nodes))
        return instantiate(graph, flags)

    monkeypatch.setattr(runtime, "cudaGraphInstantiate", noting)
    graphs.record(units)
    graphs.launch([units[2], chosen, units[2]])
    (whole, *_), (nodes,) = kept[0], kept
    waiting = [dependencies for dependencies, _ in nodes[whole]]
    assert waiting == [[], *([1000 * whole + number] for number in (1, 2, 3))], "update, kernel, choice, update"


def test_orders_are_the_same_where_their_choices_are(units: Units, choice: torch.Tensor) -> None:
    one, other = (Switch(address=choice.data_ptr(), branches=((units[0],), ())) for _ in range(2))
    assert (one, hash(one)) == (other, hash(other))
    assert [*units_of([units[2], one, units[1]])] == [units[2], units[0], units[1]]


def test_nothing_is_launched_before_every_branch_is_recorded(
    graphs: CudaGraphs, runtime: Runtime, units: Units, chosen: Switch
) -> None:
    graphs.record([units[0], units[2]])
    assert not graphs.launch([units[2], chosen])
    assert not runtime.calls
    graphs.record(units)
    assert graphs.launch([units[2], chosen])


def test_close_unloads_the_kernel_after_the_graphs_are_gone(
    graphs: CudaGraphs, runtime: Runtime, units: Units, chosen: Switch
) -> None:
    graphs.record(units)
    graphs.launch([units[2], chosen])
    graphs.close()
    assert not runtime.libraries
    assert not runtime.executable


def test_a_choice_without_its_kernel_is_a_mistake_of_ours(runtime: Runtime, units: Units, chosen: Switch) -> None:
    with pytest.raises(AssertionError):
        compose(runtime, dict(zip(units, (1, 2, 3), strict=True)), [chosen])
    assert not runtime.nodes


# Where it cannot be had.

CALLS = [
    "cudaLibraryLoadData",
    "cudaLibraryGetKernel",
    "cudaGraphConditionalHandleCreate",
    "cudaGraphAddKernelNode",
    "cudaGraphAddNode",
    "cudaGraphInstantiate",
    "cudaGraphLaunch",
]


@pytest.mark.parametrize("name", CALLS)
def test_what_cuda_refuses_is_left_to_the_host_and_said_once(
    graphs: CudaGraphs, runtime: Runtime, units: Units, chosen: Switch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    graphs.record(units)
    runtime.fails_in = name
    for _ in range(3):
        assert not graphs.launch([units[2], chosen])
    assert caplog.messages == [f"what a rule decides is read call by call, not as one graph: {name} failed: 901"]
    assert not runtime.nodes
    assert not runtime.executable
    assert Graph.replayed == [], "nothing of it has run"
    runtime.fails_in = ""
    plan = [units[0], units[2]]
    assert graphs.launch(plan)
    assert graphs.launch(plan)
    assert runtime.launched[-1] == ([FULL, UPDATE], 7), "what has no choice in it is one graph as before"
    graphs.close()
    assert not runtime.libraries


@pytest.mark.parametrize("gone", ["cudaGraphConditionalHandleCreate", "cudaLibraryLoadData", "cudaGraphAddNode"])
def test_bindings_that_are_too_old_are_no_error(
    graphs: CudaGraphs,
    units: Units,
    chosen: Switch,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    gone: str,
) -> None:
    monkeypatch.delattr(Runtime, gone)
    graphs.record(units)
    assert not graphs.launch([units[2], chosen])
    assert gone in caplog.text
    assert graphs.launch(units)


def test_without_the_compiler_the_cure_is_said(
    graphs: CudaGraphs,
    units: Units,
    chosen: Switch,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cuda.bindings import nvrtc

    def missing(*args: Any) -> None:
        raise RuntimeError("Failure finding libnvrtc.so\nmore")

    monkeypatch.setattr(nvrtc, "nvrtcCreateProgram", missing)
    compiled.cache_clear()
    graphs.record(units)
    assert not graphs.launch([units[2], chosen])
    assert "no NVRTC: Failure finding libnvrtc.so; pip install nvidia-cuda-nvrtc" in caplog.text


# The bindings themselves.


def test_the_bindings_take_what_is_given_to_the_double() -> None:
    from cuda.bindings import runtime as real

    kernel, node = real.cudaKernelNodeParams(), real.cudaGraphNodeParams()
    kernel.func = real.cudaKernel_t(77)
    kernel.gridDim = kernel.blockDim = switch._one(real)
    kernel.kernelParams = (5, 1234), (ctypes.c_ulonglong, ctypes.c_void_p)
    node.type = real.cudaGraphNodeType.cudaGraphNodeTypeConditional
    node.conditional.handle = real.cudaGraphConditionalHandle(5)
    node.conditional.type = real.cudaGraphConditionalNodeType.cudaGraphCondTypeSwitch
    node.conditional.size = 3
    assert (int(node.conditional.handle), node.conditional.size, int(kernel.func)) == (5, 3, 77)
    assert (kernel.gridDim.x, kernel.blockDim.z) == (1, 1)
    assert hasattr(type(node.conditional), "phGraph_out")
