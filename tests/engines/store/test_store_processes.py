"""A store that several processes, or several users, have in common."""

import errno
import fcntl
import logging
import multiprocessing
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deepcache_trt.engines.store import Store, key_of
from deepcache_trt.errors import StoreError
from tests.engines.store.builds import ENGINE, Build

_SPAWN = multiprocessing.get_context("spawn")


def _build_in_a_second(root: Path, begun: Path) -> None:
    def build(folder: Path) -> dict[str, Any]:
        begun.touch()
        time.sleep(1)
        (folder / "engine.onnx").write_bytes(b"engine")
        return {"built_by": os.getpid()}

    Store(root).get("engines", ENGINE, build)


def _ask(root: Path, name: str, built: Any, told: Any) -> None:
    """Build slowly, if nobody else does, and say so."""

    def build(folder: Path) -> dict[str, Any]:
        time.sleep(0.5)
        (folder / "engine.onnx").write_bytes(name.encode())
        built.put(name)
        return {"built_by": os.getpid()}

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.put(record.getMessage())

    logger = logging.getLogger("deepcache_trt")
    logger.setLevel(logging.INFO)
    logger.addHandler(Told())
    found = Store(root).get("engines", ENGINE | {"name": name}, build)
    assert (found.folder / "engine.onnx").read_bytes() == name.encode()


def _hang_in_build(root: Path, begun: Path) -> None:
    def build(folder: Path) -> dict[str, Any]:
        (folder / "engine.onnx").write_bytes(b"half an eng")
        begun.touch()
        time.sleep(600)
        return {}

    Store(root).get("engines", ENGINE, build)


@pytest.fixture
def building(store: Store, tmp_path: Path) -> Iterator[Callable[[Callable[..., None]], Any]]:
    """Start a process and come back when it is in the middle of its build."""
    started = []

    def start(target: Callable[..., None]) -> Any:
        begun = tmp_path / "begun"
        process = _SPAWN.Process(target=target, args=(store.root, begun))
        process.start()
        started.append(process)
        deadline = time.monotonic() + 60
        while not begun.exists():
            assert time.monotonic() < deadline
            assert process.is_alive()
            time.sleep(0.01)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


def test_two_processes_that_ask_at_once_build_once(store: Store, building: Callable[..., Any]) -> None:
    other, build = building(_build_in_a_second), Build()
    assert store.find("engines", key_of(ENGINE)) is None
    assert store.get("engines", ENGINE, build).about == {"built_by": other.pid}
    assert build.count == 0


def test_of_eight_processes_one_builds_each_artefact_and_the_others_wait_with_a_message(
    store: Store, record_property: Callable[[str, object], None]
) -> None:
    built, told = _SPAWN.Queue(), _SPAWN.Queue()
    names = [*["one"] * 4, *["other"] * 4]
    processes = [_SPAWN.Process(target=_ask, args=(store.root, name, built, told)) for name in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 8
    assert sorted(built.get(timeout=10) for _ in range(2)) == ["one", "other"]
    assert built.empty()
    record_property("builders at once, each artefact built by one", len(names))
    # Who comes when it is done has nothing to wait for; at least one came before.
    assert re.fullmatch("another process builds engines/[0-9a-f]{20}; waiting for it", told.get(timeout=10))


def test_who_waits_takes_over_where_the_builder_dies(store: Store, building: Callable[..., Any]) -> None:
    builder, waits = building(_hang_in_build), Build()
    waiter = threading.Thread(target=store.get, args=("engines", ENGINE, waits))
    waiter.start()
    time.sleep(0.3)
    assert waits.count == 0
    os.kill(builder.pid, signal.SIGKILL)
    waiter.join(60)
    assert waits.count == 1
    found = store.find("engines", key_of(ENGINE))
    assert found is not None
    assert found.about["count"] == 1


@pytest.mark.parametrize("answer", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_nothing_can_be_locked_the_first_one_that_is_done_is_used(
    store: Store, monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    def flock(*_: Any) -> None:
        raise OSError(answer, os.strerror(answer))

    monkeypatch.setattr(fcntl, "flock", flock)
    inner = Build(b"of the first")

    def build(folder: Path) -> dict[str, Any]:
        store.get("engines", ENGINE, inner)  # another one that builds the same meanwhile, and is done before
        return Build(b"of the second")(folder)

    assert (store.get("engines", ENGINE, build).folder / "engine.onnx").read_bytes() == b"of the first"
    assert (store.get("engines", ENGINE, build).folder / "engine.onnx").read_bytes() == b"of the first"
    assert inner.count == 1


def test_a_killed_build_leaves_nothing_that_loads_and_does_not_block_the_next(
    store: Store, building: Callable[..., Any]
) -> None:
    process = building(_hang_in_build)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert store.find("engines", key_of(ENGINE)) is None
    assert list(store.list()) == []
    started = time.monotonic()
    assert store.get("engines", ENGINE, Build()).about["count"] == 1
    assert time.monotonic() - started < 10


def test_what_a_killed_build_left_is_removed_a_day_later(store: Store) -> None:
    old, recent = store.root / "tmp" / "old", store.root / "tmp" / "recent"
    for folder in (old, recent):
        folder.mkdir(parents=True)
        (folder / "half").touch()
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    store.get("engines", ENGINE, Build())
    assert not old.exists()
    assert recent.exists()  # may be a build that runs now


def _use_read_only(root: Path) -> None:
    """Of a store that belongs to somebody else, what is there can be used and what is not is refused."""
    if os.geteuid() == 0:
        os.setuid(65534)
    build = Build()
    Store(root).get("engines", ENGINE, build)
    assert build.count == 0
    for missing in ("engines", "graphs"):
        with pytest.raises(StoreError, match=r"cannot write to the store .*: Permission denied; .*--store"):
            Store(root).get(missing, {"n": 1}, build)


def test_a_read_only_store_serves_what_it_has_and_refuses_to_build() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        Store(root).get("engines", ENGINE, Build())
        folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
        for path in folders:
            path.chmod(0o555)
        process = _SPAWN.Process(target=_use_read_only, args=(root,))
        process.start()
        process.join(60)
        for path in folders:
            path.chmod(0o755)
    assert process.exitcode == 0
