"""A machine with TensorRT's double, a plan and the engine that is loaded from it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 6))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA RTX A5000")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: recorder.device)
    monkeypatch.setattr(torch.cuda, "device", lambda device: _current(recorder, device))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=77))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: SimpleNamespace(cuda_stream=78))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: recorder.record("synchronize"))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: recorder.capturing)
    return recorder


@contextmanager
def _current(recorder: Recorder, device: int) -> Iterator[None]:
    before, recorder.device = recorder.device, device
    yield
    recorder.device = before


def _with_errors(record: Callable[..., bool], logger: Any) -> Callable[..., bool]:
    def recorded(self: Recorder, name: str, *args: Any, **refused: str) -> bool:
        self.errors = logger.errors
        return record(self, name, *args, **refused)

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
