"""Runs that are recorded into a CUDA graph: only what has run before, and what TensorRT says can be."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from deepcache_trt.engines.tensorrt import versions
from deepcache_trt.engines.tensorrt.engine import TensorRTEngine
from deepcache_trt.errors import BackendError
from tests.engines.tensorrt_backend.doubled_engine import RUN, aligned, bind
from tests.engines.tensorrt_backend.tensorrt_double import WORKSPACE, Recorder

ASKED = ("is_stream_capturable", 78)


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
    engine: TensorRTEngine, recorder: Recorder, change: Any
) -> None:
    kept = bind(engine, 2, 8)
    engine.run()
    recorder.capturing = True
    engine.run()
    recorder.capturing = False
    change(engine)
    recorder.capturing = True
    with pytest.raises(AssertionError, match="run once after a change, before capturing"):
        engine.run()
    recorder.capturing = False
    engine.run()
    recorder.capturing = True
    engine.run()
    del kept


def test_what_tensorrt_cannot_capture_is_refused_while_capturing_and_runs_otherwise(
    engine: TensorRTEngine, recorder: Recorder
) -> None:
    """Whoever records catches a BackendError and runs the steps singly."""
    recorder.capturable = False
    bind(engine, 2, 8)
    assert engine.capturable
    engine.run()
    assert not engine.capturable
    recorder.take()
    recorder.capturing = True
    reason = re.escape("tensorrt_rtx 1.7.1 cannot run this engine plan inside a CUDA graph at these shapes")
    with pytest.raises(BackendError, match=reason):
        engine.run()
    assert recorder.take() == []
    recorder.capturing = False
    engine.run()
    assert recorder.take() == [RUN]


def test_tensorrt_is_asked_once_for_each_shape_of_a_context(engine: TensorRTEngine, recorder: Recorder) -> None:
    bound = bind(engine, 2, 8)
    for _ in range(2):
        engine.bind("timestep", aligned(1, dtype=torch.int64))
        engine.run()
    assert recorder.take().count(ASKED) == 1
    bind(engine, 2, 16)
    engine.run()
    assert recorder.take().count(ASKED) == 1
    for name, tensor in bound.items():
        engine.bind(name, tensor)
    engine.run()
    assert recorder.take().count(ASKED) == 0


def test_each_shape_has_its_own_answer(engine: TensorRTEngine, recorder: Recorder) -> None:
    small = bind(engine, 2, 8)
    engine.run()
    recorder.capturable = False
    large = bind(engine, 2, 16)
    engine.run()
    assert not engine.capturable
    for name, tensor in small.items():
        engine.bind(name, tensor)
    engine.run()
    assert engine.capturable
    del large


def test_tensorrt_has_no_such_question_and_can_capture_what_it_runs() -> None:
    assert versions.can_be_captured(SimpleNamespace(), 77)


def test_versions_without_that_flag_are_told_nothing() -> None:
    assert versions.capture_flags(SimpleNamespace(BuilderFlag=SimpleNamespace(TF32=1))) == []
