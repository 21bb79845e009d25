"""Running a plan: what TensorRT is told, in which order, and no more than that.

A machine without a GPU cannot load a plan, so that a double of TensorRT's execution API is told.
"""

import gc
from pathlib import Path
from typing import Any

import pytest
import torch

from deepcache_trt.engines.tensorrt.engine import TensorRTEngine
from deepcache_trt.errors import BackendError, ShapeError
from tests.engines.tensorrt_backend.doubled_engine import RUN, aligned, bind, load
from tests.engines.tensorrt_backend.tensorrt_double import WORKSPACE, Context, Recorder


def test_a_context_is_told_its_profile_then_memory_shapes_and_addresses(
    engine: TensorRTEngine, recorder: Recorder
) -> None:
    tensors = bind(engine, 2, 8)
    engine.run()
    assert engine._memory is not None
    assert recorder.take() == [
        ("create_execution_context",),
        ("set_optimization_profile_async", 0, 77),
        ("set_device_memory", engine._memory.data_ptr(), WORKSPACE),
        ("set_input_shape", "sample", (2, 4, 8, 8)),
        ("set_tensor_address", "sample", tensors["sample"].data_ptr()),
        ("set_input_shape", "timestep", (1,)),
        ("set_tensor_address", "timestep", tensors["timestep"].data_ptr()),
        ("set_tensor_address", "out", tensors["out"].data_ptr()),
        RUN,
    ]


def test_nothing_is_told_twice(engine: TensorRTEngine, recorder: Recorder) -> None:
    tensors = bind(engine, 2, 8)
    engine.run()
    recorder.take()
    engine.run()
    for name, tensor in tensors.items():
        engine.bind(name, tensor)
    engine.run()
    assert recorder.take() == [RUN, RUN]


def test_another_tensor_of_the_same_shape_is_another_address_only(engine: TensorRTEngine, recorder: Recorder) -> None:
    bind(engine, 2, 8)
    engine.run()
    recorder.take()
    other = aligned(2, 4, 8, 8)
    engine.bind("sample", other)
    engine.run()
    assert recorder.take() == [("set_tensor_address", "sample", other.data_ptr()), RUN]


def test_each_output_has_its_contexts_for_as_long_as_it_lives(
    engine: TensorRTEngine, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a CUDA graph of another shape was captured from is left as it is."""
    small = bind(engine, 2, 8)
    engine.run()
    large = bind(engine, 3, 8)
    engine.run()
    calls = recorder.take()
    assert calls.count(("create_execution_context",)) == calls.count(RUN) == 2
    for name, tensor in small.items():
        engine.bind(name, tensor)
    engine.run()
    assert recorder.take() == [RUN]
    gc.collect()
    monkeypatch.setattr(Context, "__del__", lambda self: recorder.calls.append(("drop",)), raising=False)
    large.clear()
    gc.collect()
    assert recorder.take() == [("drop",)]


def test_each_profile_has_its_context_and_all_share_the_workspace(engine: TensorRTEngine, recorder: Recorder) -> None:
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


def test_another_workspace_reaches_the_context_that_runs_next(engine: TensorRTEngine, recorder: Recorder) -> None:
    bind(engine, 2, 8)
    engine.run()
    recorder.take()
    memory = aligned(2 * WORKSPACE, dtype=torch.uint8)
    engine.use_workspace(memory)
    engine.use_workspace(memory)
    engine.run()
    assert recorder.take() == [("set_device_memory", memory.data_ptr(), 2 * WORKSPACE), RUN]


@pytest.mark.parametrize(("batch", "side"), [(5, 8), (2, 12), (2, 40)])
def test_a_shape_outside_every_profile_is_refused_with_all_of_them(
    engine: TensorRTEngine, recorder: Recorder, batch: int, side: int
) -> None:
    bind(engine, batch, side)
    message = (
        rf"batch {batch}, height {side}, width {side} is outside what the engine was built for: "
        r"batch 1–4, height 8, width 8 or batch 1–4, height 16–32, width 16–32"
    )
    with pytest.raises(ShapeError, match=message):
        engine.run()
    assert recorder.take() == []
    bind(engine, 2, 8)
    engine.run()


@pytest.mark.parametrize("shape", [(3, 4, 8, 8), (2, 4, 16, 8), (1, 4, 8, 8)])
def test_an_output_of_another_size_than_the_input_is_refused(
    engine: TensorRTEngine, recorder: Recorder, shape: tuple[int, ...]
) -> None:
    """TensorRT would write past its end."""
    bind(engine, 2, 8)
    engine.bind("out", aligned(*shape))
    with pytest.raises(ShapeError, match=r"out has shape .* where the other tensors ask for \[2, 4, 8, 8\]"):
        engine.run()
    assert recorder.take() == []


def test_a_tensor_that_tensorrt_cannot_read_is_refused(engine: TensorRTEngine) -> None:
    with pytest.raises(ShapeError, match=r"sample starts 4 bytes past a multiple of 256, .*\.clone\(\)"):
        engine.bind("sample", aligned(2, 4, 8, 8, past=1))
    with pytest.raises(ShapeError, match=r"sample is float16, the engine takes float32"):
        engine.bind("sample", aligned(2, 4, 8, 8, dtype=torch.float16))
    with pytest.raises(ShapeError, match=r"the workspace starts 1 bytes past"):
        engine.use_workspace(aligned(WORKSPACE, dtype=torch.uint8, past=1))
    with pytest.raises(AssertionError, match="10 of 4096 bytes"):
        engine.use_workspace(aligned(10, dtype=torch.uint8))


def test_a_tensor_of_another_gpu_is_refused(engine: TensorRTEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "get_device", lambda self: 1)
    with pytest.raises(ShapeError, match=r"sample is on cuda:1, the engine was loaded on cuda:-1"):
        engine.bind("sample", aligned(2, 4, 8, 8))


def test_running_without_a_tensor_or_a_workspace_is_a_bug(plan: Path, recorder: Recorder) -> None:
    engine = load(plan)
    with pytest.raises(AssertionError, match=r"unbound: \['sample', 'timestep', 'out'\]"):
        engine.run()
    bind(engine, 2, 8)
    with pytest.raises(AssertionError, match="use_workspace comes before run"):
        engine.run()


def change_tensor(engine: TensorRTEngine) -> None:
    bind(engine, 2, 8)


def change_shape(engine: TensorRTEngine) -> None:
    bind(engine, 1, 8)


def change_workspace(engine: TensorRTEngine) -> None:
    engine.use_workspace(aligned(WORKSPACE, dtype=torch.uint8))


def change_weights(engine: TensorRTEngine) -> None:
    engine.refit(Path("other.onnx"))


@pytest.mark.parametrize("change", [change_tensor, change_shape, change_workspace, change_weights])
def test_the_first_run_after_a_change_cannot_be_captured(
    engine: TensorRTEngine, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    def capturing(yes: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: yes)

    kept = bind(engine, 2, 8)
    engine.run()
    capturing(True)
    engine.run()
    change(engine)
    with pytest.raises(AssertionError, match="run once after a change, before capturing"):
        engine.run()
    capturing(False)
    engine.run()
    capturing(True)
    engine.run()
    del kept


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("execute_async_v3", "could not run the engine: execute_async_v3 went wrong"),
        ("set_input_shape", r"refused set_input_shape\('sample', \(2, 4, 8, 8\)\): set_input_shape went wrong"),
        ("set_tensor_address", "refused set_tensor_address"),
        ("set_optimization_profile_async", r"refused set_optimization_profile_async\(0, 77\)"),
        ("create_execution_context", "cannot set up profile 0: create_execution_context went wrong"),
    ],
)
def test_a_call_that_fails_is_an_error_with_tensorrts_reason_and_can_be_tried_again(
    engine: TensorRTEngine, recorder: Recorder, call: str, message: str
) -> None:
    bind(engine, 2, 8)
    recorder.failing = {call}
    with pytest.raises(BackendError, match=message):
        engine.run()
    recorder.failing = set()
    engine.run()
    assert recorder.calls[-1] == RUN


def test_version_8_gets_an_int32_copy_of_each_int64_input_at_every_run(plan: Path, recorder: Recorder) -> None:
    recorder.int64 = "INT32"
    engine = load(plan)
    engine.use_workspace(aligned(WORKSPACE, dtype=torch.uint8))
    timestep = bind(engine, 2, 8)["timestep"]
    for step in (999, 7):
        timestep.fill_(step)
        # torch's CPU memory is not aligned for TensorRT; its GPU memory is.
        engine.run()
        copy = engine._narrowed["timestep"]
        assert (copy.dtype, copy.tolist()) == (torch.int32, [step])
    assert ("set_tensor_address", "timestep", copy.data_ptr()) in recorder.calls
