"""The shapes that one engine was built for take turns: one plan, a context for each output and profile of it."""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from deepcache_trt.engines.tensorrt.engine import TensorRTEngine
from tests.engines.tensorrt_backend.doubled_engine import RUN, aligned, bind, load
from tests.engines.tensorrt_backend.tensorrt_double import WORKSPACE, Context, Recorder

DROP = ("drop",)

# Of one profile, and of two: batch and side.
PAIRS = [((2, 8), (3, 8)), ((2, 8), (2, 16)), ((2, 16), (2, 24))]


@pytest.fixture
def drops(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Contexts that are destroyed are in the log."""
    gc.collect()  # those of other tests
    with monkeypatch.context() as patch:
        patch.setattr(Context, "__del__", lambda self: recorder.record("drop"), raising=False)
        yield


def rebind(engine: TensorRTEngine, tensors: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        engine.bind(name, tensor)


@pytest.mark.parametrize("pair", PAIRS)
def test_shapes_that_were_bound_before_take_turns_and_tensorrt_is_told_nothing(
    plan: Path, recorder: Recorder, pair: Any
) -> None:
    engine = load(plan)
    engine.use_workspace(aligned(WORKSPACE, dtype=torch.uint8))
    bound = []
    for batch, side in pair:
        bound.append(bind(engine, batch, side))
        engine.run()
    calls = recorder.take()
    assert calls.count(("deserialize_cuda_engine",)) == 1
    assert calls.count(("create_execution_context",)) == calls.count(RUN) == 2
    for tensors in bound * 3:
        rebind(engine, tensors)
        engine.run()
    assert recorder.take() == [RUN] * 6


def test_outputs_of_two_profiles_have_contexts_of_one_workspace(engine: TensorRTEngine, recorder: Recorder) -> None:
    assert engine._memory is not None
    memory = ("set_device_memory", engine._memory.data_ptr(), WORKSPACE)
    for side in (8, 16):
        bind(engine, 2, side)
        engine.run()
    calls = recorder.take()
    assert [call for call in calls if call[0] == "set_optimization_profile_async"] == [
        ("set_optimization_profile_async", 0, 77),
        ("set_optimization_profile_async", 1, 77),
    ]
    assert calls.count(memory) == calls.count(("create_execution_context",)) == calls.count(RUN) == 2


def test_another_workspace_reaches_each_context_at_its_turn(engine: TensorRTEngine, recorder: Recorder) -> None:
    bound = []
    for batch in (2, 3):
        bound.append(bind(engine, batch, 8))
        engine.run()
    memory = aligned(WORKSPACE, dtype=torch.uint8)
    engine.use_workspace(memory)
    recorder.take()
    for tensors in bound * 2:
        rebind(engine, tensors)
        engine.run()
    told = ("set_device_memory", memory.data_ptr(), WORKSPACE)
    assert recorder.take() == [told, RUN, told, RUN, RUN, RUN]


@pytest.mark.usefixtures("drops")
def test_a_context_goes_at_the_next_change_after_its_output_has_died(
    engine: TensorRTEngine, recorder: Recorder
) -> None:
    large = bind(engine, 3, 8)
    engine.run()
    small = bind(engine, 2, 8)
    engine.run()
    recorder.take()
    large.clear()
    gc.collect()
    assert recorder.take() == []  # whenever Python collects garbage, no context is destroyed
    rebind(engine, small)
    engine.run()
    assert recorder.take() == [RUN]
    engine.bind("timestep", aligned(1, dtype=torch.int64))
    engine.run()
    assert recorder.take()[:2] == [("synchronize",), DROP]  # the GPU may have been at work for it


@pytest.mark.usefixtures("drops")
def test_outputs_that_come_and_go_leave_no_contexts(engine: TensorRTEngine, recorder: Recorder) -> None:
    for _ in range(5):
        bind(engine, 2, 8)
        engine.run()
    calls = recorder.take()
    assert calls.count(("create_execution_context",)) - calls.count(DROP) == 1


@pytest.mark.usefixtures("drops")
def test_an_output_in_the_memory_of_one_that_died_takes_its_context_over(
    engine: TensorRTEngine, recorder: Recorder
) -> None:
    """It must run once before it is captured: a graph on a context that goes with another output would be void."""
    kept = bind(engine, 2, 8)
    engine.run()
    recorder.take()
    kept["out"] = kept["out"].view(2, 4, 8, 8)
    engine.bind("out", kept["out"])
    recorder.capturing = True
    with pytest.raises(AssertionError, match="run once after a change"):
        engine.run()
    recorder.capturing = False
    engine.run()
    engine.bind("timestep", aligned(1, dtype=torch.int64))
    engine.run()
    assert [call for call in recorder.take() if call[0] != "set_tensor_address"] == [RUN, RUN]


@pytest.mark.usefixtures("drops")
def test_no_context_is_destroyed_while_a_graph_is_captured(engine: TensorRTEngine, recorder: Recorder) -> None:
    """Destroying one frees memory, which makes the graph void."""
    large = bind(engine, 3, 8)
    engine.run()
    kept = bind(engine, 2, 8)
    engine.run()
    recorder.take()
    recorder.capturing = True
    large.clear()
    gc.collect()
    engine.run()
    recorder.capturing = False
    assert recorder.take() == [RUN]
    del kept


def test_an_int32_copy_lives_as_long_as_graphs_that_read_it(plan: Path, recorder: Recorder) -> None:
    """A recorded graph goes on reading the copy of its own context when another shape has run."""
    recorder.int64, recorder.alignment = "INT32", 1
    engine = load(plan)
    engine.use_workspace(aligned(WORKSPACE, dtype=torch.uint8))
    small = bind(engine, 2, 8)
    engine.run()
    told = [call for call in recorder.take() if call[:2] == ("set_tensor_address", "timestep")]
    large = bind(engine, 3, 8)
    engine.run()
    told += [call for call in recorder.take() if call[:2] == ("set_tensor_address", "timestep")]
    assert len(set(told)) == 2
    for tensors in (small, large):
        rebind(engine, tensors)
        engine.run()
    assert recorder.take() == [RUN, RUN]
