"""A machine with TensorRT's double, a plan and the engine that is loaded from it."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from deepcache_trt.engines.engine import check_binding
from deepcache_trt.engines.tensorrt import engine as tensorrt
from deepcache_trt.engines.tensorrt import versions
from deepcache_trt.engines.tensorrt.engine import TensorRTEngine
from tests.engines.tensorrt_backend.doubled_engine import aligned, load
from tests.engines.tensorrt_backend.tensorrt_double import WORKSPACE, Module, Recorder


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """A machine with TensorRT-RTX's double, where torch's CPU passes for GPU number -1."""
    recorder = Recorder()
    module = Module(recorder)
    monkeypatch.setattr(versions, "load", lambda backend: module)
    monkeypatch.setattr(Recorder, "record", _with_errors(Recorder.record, versions.logger(module)), raising=True)
    monkeypatch.setattr(tensorrt, "check_binding", lambda spec, tensor, device: check_binding(spec, tensor, "cpu"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: -1)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=77))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: recorder.calls.append(("synchronize",)))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return recorder


def _with_errors(record: Callable[..., bool], logger: Any) -> Callable[..., bool]:
    def recorded(self: Recorder, name: str, *args: Any) -> bool:
        self.errors = logger.errors
        return record(self, name, *args)

    return recorded


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "engine.plan"
    path.write_bytes(b"a plan")
    return path


@pytest.fixture
def engine(plan: Path, recorder: Recorder) -> TensorRTEngine:
    engine = load(plan)
    engine.use_workspace(aligned(WORKSPACE, dtype=torch.uint8))
    recorder.take()
    return engine
