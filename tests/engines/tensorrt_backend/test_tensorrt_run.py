"""Running a plan: what TensorRT is told, in which order, and no more than that.

A machine without a GPU cannot load a plan, so that a double of TensorRT's execution API is told.
"""

from pathlib import Path

import pytest
import torch

from deepcache_trt.engines.tensorrt.engine import TensorRTEngine
from deepcache_trt.errors import BackendError, ShapeError
from tests.engines.tensorrt_backend.doubled_engine import RUN, aligned, bind, load
from tests.engines.tensorrt_backend.tensorrt_double import WORKSPACE, Recorder


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
        ("is_stream_capturable", 78),
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


def test_running_without_a_tensor_or_a_workspace_is_a_bug(plan: Path, recorder: Recorder) -> None:
    engine = load(plan)
    with pytest.raises(AssertionError, match=r"unbound: \['sample', 'timestep', 'out'\]"):
        engine.run()
    bind(engine, 2, 8)
    with pytest.raises(AssertionError, match="use_workspace comes before run"):
        engine.run()


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
    assert RUN in recorder.calls


def test_version_8_gets_an_int32_copy_of_each_int64_input_at_every_run(plan: Path, recorder: Recorder) -> None:
    recorder.int64 = "INT32"
    recorder.alignment = 1  # torch's CPU memory is not aligned for TensorRT; its GPU memory is
    engine = load(plan)
    engine.use_workspace(aligned(WORKSPACE, dtype=torch.uint8))
    timestep = bind(engine, 2, 8)["timestep"]
    for step in (999, 7):
        timestep.fill_(step)
        engine.run()
        assert engine._current is not None
        copy = engine._current.narrowed["timestep"]
        assert (copy.dtype, copy.tolist()) == (torch.int32, [step])
    assert ("set_tensor_address", "timestep", copy.data_ptr()) in recorder.calls
