"""What TensorRT-RTX compiles at first runs is kept in a file as soon as it is known, for the next process."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from deepcache_trt.engines.caches import keep
from deepcache_trt.engines.tensorrt import kernels
from deepcache_trt.engines.tensorrt.engine import TensorRTEngine
from tests.engines.tensorrt_backend.doubled_engine import aligned, bind, load
from tests.engines.tensorrt_backend.tensorrt_double import KERNELS, WORKSPACE, Recorder, RuntimeCache

SAVED = ("serialize",)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "kernels.cache"


@pytest.fixture
def opened(plan: Path, recorder: Recorder) -> Callable[[Path], TensorRTEngine]:
    def open_engine(file: Path) -> TensorRTEngine:
        engine = load(plan, runtime_cache=file)
        engine.use_workspace(aligned(WORKSPACE, dtype=torch.uint8))
        return engine

    return open_engine


def test_kernels_are_kept_after_the_first_run_of_each_shape_and_no_other(
    opened: Any, file: Path, recorder: Recorder
) -> None:
    """A process may be killed before it closes the engine."""
    engine = opened(file)
    for number, (batch, side) in enumerate([(2, 8), (3, 8), (2, 16)]):
        recorder.kernels = KERNELS + bytes([number])
        kept = [bind(engine, batch, side)]
        engine.run()
        assert file.read_bytes() == recorder.kernels
        assert recorder.take().count(SAVED) == 1
        engine.run()
        kept.append(bind(engine, batch, side))  # another context, of kernels that are there
        engine.run()
        assert SAVED not in recorder.take()


def test_a_first_run_that_fails_keeps_nothing(opened: Any, file: Path, recorder: Recorder) -> None:
    engine = opened(file)
    bind(engine, 2, 8)
    recorder.failing = {"execute_async_v3"}
    with pytest.raises(Exception, match="went wrong"):
        engine.run()
    assert SAVED not in recorder.take()


def test_what_the_file_holds_is_not_written_again(
    opened: Any, file: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def write(path: Path, data: Any) -> None:
        written.append(path)
        keep(path, data)

    monkeypatch.setattr(kernels, "keep", write)
    for _ in range(2):
        engine = opened(file)
        bind(engine, 2, 8)
        engine.run()
        engine.close()
    assert written == [file]
    recorder.kernels += b", and more"
    engine = opened(file)
    engine.close()
    assert written == [file, file]
    assert sorted(path.name for path in file.parent.iterdir()) == ["engine.plan", "kernels.cache", "kernels.cache.seal"]


def test_the_next_engine_begins_with_them(opened: Any, file: Path, recorder: Recorder) -> None:
    opened(file).close()
    assert ("deserialize", KERNELS) not in recorder.take()
    opened(file)
    calls = recorder.take()
    assert calls.index(("deserialize", KERNELS)) < calls.index(("set_runtime_cache",))


def test_kernels_that_were_changed_since_they_were_kept_are_not_given_to_tensorrt(
    opened: Any, file: Path, recorder: Recorder
) -> None:
    keep(file, KERNELS)
    file.write_bytes(KERNELS[:-1] + b"?")
    engine = opened(file)
    assert not [call for call in recorder.take() if call[0] == "deserialize"]
    bind(engine, 2, 8)
    engine.run()
    assert file.read_bytes() == KERNELS


@pytest.mark.parametrize("content", [b"", b"of another driver"])
def test_a_file_that_tensorrt_does_not_take_is_replaced(
    opened: Any, file: Path, recorder: Recorder, content: bytes
) -> None:
    keep(file, content)
    recorder.failing = {"deserialize"}
    engine = opened(file)
    bind(engine, 2, 8)
    engine.run()
    assert file.read_bytes() == KERNELS


def no_folder(file: Path, recorder: Recorder) -> Path:
    return file.parent / "gone" / "kernels.cache"


def no_memory(file: Path, recorder: Recorder) -> Path:
    recorder.failing = {"serialize"}
    return file


def no_cache(file: Path, recorder: Recorder) -> Path:
    recorder.failing = {"create_runtime_cache"}
    return file


def not_taken(file: Path, recorder: Recorder) -> Path:
    recorder.failing = {"set_runtime_cache"}
    return file


@pytest.mark.parametrize("trouble", [no_folder, no_memory, no_cache, not_taken])
def test_kernels_that_cannot_be_kept_are_one_warning_and_the_engine_runs(
    opened: Any, file: Path, recorder: Recorder, caplog: pytest.LogCaptureFixture, trouble: Any
) -> None:
    engine = opened(trouble(file, recorder))
    for side in (8, 16):
        bind(engine, 2, side)
        engine.run()
    engine.close()
    warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "compiled kernels were not saved to" in warnings[0]
    assert not file.exists()


def test_what_could_not_be_kept_at_a_run_is_kept_at_the_end(opened: Any, file: Path, recorder: Recorder) -> None:
    engine = opened(file)
    bind(engine, 2, 8)
    recorder.failing = {"serialize"}
    engine.run()
    recorder.failing = set()
    engine.close()
    assert file.read_bytes() == KERNELS


def test_a_file_that_cannot_be_read_is_a_warning(
    opened: Any, tmp_path: Path, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    opened(tmp_path)  # it is a folder
    assert "is not what was written there" in caplog.text


def test_the_memory_of_the_cache_is_a_buffer_and_no_bytes(recorder: Recorder) -> None:
    memory = RuntimeCache(recorder).serialize()
    assert memory is not None
    assert (bytes(memory), memory.nbytes) == (KERNELS, len(KERNELS))
    assert not hasattr(memory, "__len__")
