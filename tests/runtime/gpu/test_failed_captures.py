"""A unit that cannot be recorded: it has run, nothing is lost, and torch is left as it was."""

import gc
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from deepcache_trt.errors import BackendError
from deepcache_trt.runtime import cuda_graph
from deepcache_trt.runtime.cuda_graph import CudaGraphs
from tests.runtime.gpu.cuda_double import DEVICE, Graph, Runtime, Stream


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
    gc.collect()  # while the double of CUDA is there to be synchronised
