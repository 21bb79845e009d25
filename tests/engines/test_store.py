"""The store: built once, found by content, and never half of anything."""

import errno
import json
import logging
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from deepcache_trt.engines.store import MANIFEST, Store, default_root, key_of
from deepcache_trt.errors import CheckpointError, StoreError

ENGINE = {"graph": "abc", "backend": "onnxruntime", "profile": {"batch": [1, 2, 8]}}
LARGE = (64 << 20) + 1  # the store does not hash a larger file every time


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


class Build:
    """Writes two files and counts."""

    def __init__(self, content: bytes = b"engine") -> None:
        self.content = content
        self.count = 0

    def __call__(self, folder: Path) -> dict[str, Any]:
        self.count += 1
        (folder / "engine.onnx").write_bytes(self.content)
        (folder / "weights-00.safetensors").write_bytes(b"weights")
        return {"model": "digits", "count": self.count}


def leftovers(store: Store) -> list[str]:
    """Every file and folder of the store but its locks."""
    return [str(path.relative_to(store.root)) for path in store.root.rglob("*") if "locks" not in path.parts]


def failing(error: BaseException) -> Callable[[Path], dict[str, Any]]:
    def build(folder: Path) -> dict[str, Any]:
        (folder / "half").write_bytes(b"of it")
        raise error

    return build


def test_a_key_is_the_content_of_its_ingredients() -> None:
    reordered = dict(reversed(ENGINE.items()))
    assert key_of(ENGINE) == key_of(reordered)
    assert key_of(ENGINE) != key_of({**ENGINE, "backend": "torch"})
    assert key_of(ENGINE) != key_of({**ENGINE, "profile": {"batch": [1, 2, 9]}})
    assert key_of(ENGINE).isalnum()


def test_an_artefact_is_built_once_and_then_found(store: Store) -> None:
    build = Build()
    first = store.get("engines", ENGINE, build)
    assert store.get("engines", ENGINE, build) == first == store.find("engines", key_of(ENGINE))
    assert build.count == 1
    assert first.folder == store.root / "engines" / key_of(ENGINE)
    assert first.about == {"model": "digits", "count": 1}
    assert (first.folder / "engine.onnx").read_bytes() == b"engine"
    assert first.size == sum(file.stat().st_size for file in first.folder.iterdir())


def test_kinds_and_ingredients_do_not_meet(store: Store) -> None:
    build = Build()
    kept = [
        store.get("engines", ENGINE, build),
        store.get("graphs", ENGINE, build),
        store.get("engines", {**ENGINE, "backend": "torch"}, build),
    ]
    assert build.count == len({artefact.folder for artefact in kept}) == 3


def test_what_is_not_there_is_not_found_and_looking_creates_nothing(store: Store) -> None:
    assert store.find("engines", key_of(ENGINE)) is None
    assert list(store.list()) == []
    assert not store.root.exists()


@pytest.mark.parametrize(
    "error",
    [ValueError("no such op"), CheckpointError("no weights"), KeyboardInterrupt(), SystemExit(3), OSError("odd")],
    ids=lambda error: type(error).__name__,
)
def test_a_failed_build_leaves_nothing_and_its_error_propagates(store: Store, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        store.get("engines", ENGINE, failing(error))
    assert caught.value is error
    assert leftovers(store) == ["tmp"]
    assert store.get("engines", ENGINE, Build()).about["count"] == 1


def _damage_a_file(folder: Path) -> None:
    (folder / "engine.onnx").write_bytes(b"enginE")


def _remove_a_file(folder: Path) -> None:
    (folder / "weights-00.safetensors").unlink()


def _truncate_a_file(folder: Path) -> None:
    os.truncate(folder / "engine.onnx", 2)


def _truncate_the_manifest(folder: Path) -> None:
    os.truncate(folder / MANIFEST, 40)


def _empty_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b"")


def _garble_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b"\xff\xfe\x00{")


def _blank_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("null")


def _drop_the_files_of_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text(json.dumps({"about": {}}))


def _drop_the_hash_of_a_file(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["files"]["engine.onnx"]["sha256"]
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _replace_the_manifest_by_a_folder(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).mkdir()


DAMAGES = [
    *(_damage_a_file, _remove_a_file, _truncate_a_file),
    *(_truncate_the_manifest, _empty_the_manifest, _garble_the_manifest, _blank_the_manifest),
    *(_drop_the_files_of_the_manifest, _drop_the_hash_of_a_file, _replace_the_manifest_by_a_folder),
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.strip("_"))
def test_a_damaged_artefact_is_rebuilt_with_a_warning(
    store: Store, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    build = Build()
    folder = store.get("engines", ENGINE, build).folder
    damage(folder)
    assert store.find("engines", key_of(ENGINE)) is None
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert str(folder) in record.message
    assert "it will be rebuilt" in record.message
    assert list(store.list()) == []
    assert store.get("engines", ENGINE, build).about["count"] == 2
    assert (folder / "engine.onnx").read_bytes() == b"engine"
    assert store.get("engines", ENGINE, build).about["count"] == 2


def test_without_its_manifest_an_artefact_is_not_there(store: Store) -> None:
    build = Build()
    (store.get("engines", ENGINE, build).folder / MANIFEST).unlink()
    assert list(store.list()) == []
    assert store.get("engines", ENGINE, build).about["count"] == 2


def test_a_file_that_the_manifest_does_not_cover_changes_nothing_and_does_not_survive_a_rebuild(store: Store) -> None:
    build = Build()
    folder = store.get("engines", ENGINE, build).folder
    (folder / "timing.cache").write_bytes(b"added later")
    assert store.get("engines", ENGINE, build).about["count"] == 1
    _damage_a_file(folder)
    store.get("engines", ENGINE, build)
    assert not (folder / "timing.cache").exists()


@pytest.mark.parametrize("size", [1000, LARGE])
def test_a_linked_file_that_is_changed_in_place_is_noticed(store: Store, tmp_path: Path, size: int) -> None:
    checkpoint = tmp_path / "model.safetensors"
    checkpoint.touch()
    os.truncate(checkpoint, size)
    os.utime(checkpoint, ns=(1, 1))

    def build(folder: Path) -> dict[str, Any]:
        os.link(checkpoint, folder / "weights-00.safetensors")
        return {}

    artefact = store.get("weights", {}, build)
    assert store.find("weights", artefact.key) == artefact
    with checkpoint.open("r+b") as stream:
        stream.write(b"fine-tuned")
    assert checkpoint.stat().st_size == size
    assert store.find("weights", artefact.key) is None


def test_a_large_file_that_was_only_touched_is_still_whole(store: Store) -> None:
    def build(folder: Path) -> dict[str, Any]:
        (folder / "plan").touch()
        os.truncate(folder / "plan", LARGE)
        return {}

    artefact = store.get("engines", ENGINE, build)
    os.utime(artefact.folder / "plan")
    assert store.find("engines", artefact.key) == artefact


def test_list_gives_whole_artefacts_by_kind_and_age(store: Store) -> None:
    made = [store.get(kind, {"n": n}, Build()) for n, kind in enumerate(["engines", "weights", "engines", "graphs"])]
    for age, artefact in zip((30, 20, 10, 40), made, strict=True):
        os.utime(artefact.folder / MANIFEST, (time.time() - age, time.time() - age))
    (store.root / "engines" / "not-an-artefact").mkdir()
    old, weights, new, graph = made
    assert list(store.list()) == [graph, weights, old, new]


def test_what_is_built_is_described_as_it_will_be_found(store: Store) -> None:
    """JSON has no tuples and no numbers as keys."""
    built = store.get("engines", ENGINE, lambda folder: {"emits": ("tap_0",), "sizes": {1: 2}})
    assert built.about == {"emits": ["tap_0"], "sizes": {"1": 2}}
    assert built == store.find("engines", built.key)


# Searched by what they say about themselves.


def described(**about: Any) -> Callable[[Path], dict[str, Any]]:
    def build(folder: Path) -> dict[str, Any]:
        (folder / "plan").write_bytes(b"plan")
        return about

    return build


@pytest.fixture
def described_engines(store: Store) -> dict[str, Any]:
    """Three engines, by the number of their key."""
    abouts: dict[str, dict[str, Any]] = {
        "0": {"device": "sm86", "variant": {"name": "full", "emits": ["tap_0"]}, "level": None},
        "1": {"device": "sm86", "variant": {"name": "shallow", "emits": []}, "level": 3},
        "2": {"device": "sm89", "variant": {"name": "full", "emits": ["tap_0"]}, "level": 3},
    }
    return {number: store.get("engines", {"n": number}, described(**about)) for number, about in abouts.items()}


@pytest.mark.parametrize(
    ("about", "found"),
    [
        ({}, "012"),
        ({"device": "sm86"}, "01"),
        ({"device": "sm86", "level": 3}, "1"),
        ({"level": None}, "0"),
        ({"variant": {"name": "full", "emits": ["tap_0"]}}, "02"),
        ({"variant": {"name": "full", "emits": ("tap_0",)}}, "02"),  # as the code has it, before it was JSON
        ({"variant": {"name": "full"}}, ""),  # an entry is compared as a whole
        ({"variant": {"name": "full", "emits": ["tap_1"]}}, ""),
        ({"backend": None}, ""),  # none of them says anything about it
        ({"backend": "torch"}, ""),
    ],
)
def test_a_search_gives_what_has_all_of_the_entries(
    store: Store, described_engines: dict[str, Any], about: dict[str, Any], found: str
) -> None:
    wanted = [described_engines[number] for number in found]
    assert sorted(store.search("engines", about), key=lambda a: a.key) == sorted(wanted, key=lambda a: a.key)


def test_a_search_is_for_one_kind_and_creates_nothing(store: Store) -> None:
    assert list(store.search("engines", {})) == []
    assert not store.root.exists()
    store.get("graphs", {}, described(device="sm86"))
    assert list(store.search("engines", {"device": "sm86"})) == []


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.strip("_"))
def test_a_search_leaves_out_what_is_damaged(store: Store, damage: Callable[[Path], None]) -> None:
    whole = store.get("engines", ENGINE, Build())
    damage(store.get("engines", {"n": 2}, Build()).folder)
    assert list(store.search("engines", {"model": "digits"})) == [whole]


# Amended.


def test_an_amended_artefact_is_found_with_what_was_added_and_is_still_whole(store: Store) -> None:
    built = store.get("engines", ENGINE, Build())
    files = {file.name: file.read_bytes() for file in built.folder.iterdir() if file.name != MANIFEST}
    amended = store.amend(built, check={"usable": False, "reason": "NaN"}, count=7)
    assert amended.about == {"model": "digits", "count": 7, "check": {"usable": False, "reason": "NaN"}}
    assert amended == store.find("engines", built.key) == store.get("engines", ENGINE, Build())
    assert list(store.search("engines", {"count": 7})) == [amended]
    assert {file.name: file.read_bytes() for file in built.folder.iterdir() if file.name != MANIFEST} == files
    assert set(os.listdir(built.folder)) == {*files, MANIFEST}


def test_an_amendment_keeps_what_another_process_has_added(store: Store) -> None:
    built = store.get("engines", ENGINE, Build())
    store.amend(built, check="ours")
    assert store.amend(built, note="theirs").about == {"model": "digits", "count": 1, "check": "ours", "note": "theirs"}


def test_an_amendment_that_cannot_be_written_changes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    built = store.get("engines", ENGINE, Build())
    before = leftovers(store)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(StoreError, match="no space left in the store"):
            store.amend(built, check="ours")
    assert store.find("engines", built.key) == built
    assert leftovers(store) == before


# Scratch folders.


def test_a_scratch_folder_is_on_the_stores_file_system_and_gone_afterwards(store: Store) -> None:
    kept = store.get("engines", ENGINE, Build()).folder / "engine.onnx"
    with store.scratch() as folder, store.scratch() as other:
        assert folder != other
        assert folder.is_relative_to(store.root)
        os.link(kept, folder / "linked")
        (folder / "sub").mkdir()
        assert (folder / "linked").stat().st_ino == kept.stat().st_ino
    assert not folder.exists()
    assert not other.exists()
    assert kept.read_bytes() == b"engine"


@pytest.mark.parametrize("error", [ValueError("no such op"), KeyboardInterrupt(), CheckpointError("no weights")])
def test_a_scratch_folder_is_removed_on_an_error_too(store: Store, error: BaseException) -> None:
    def work() -> None:
        with store.scratch() as folder:
            (folder / "half").write_bytes(b"of it")
            raise error

    with pytest.raises(type(error)) as caught:
        work()
    assert caught.value is error
    assert leftovers(store) == ["tmp"]


def test_a_scratch_folder_on_a_full_disk_names_the_cure(store: Store) -> None:
    with pytest.raises(StoreError, match="no space left in the store"), store.scratch():
        raise OSError(errno.ENOSPC, "No space left on device")
    assert leftovers(store) == ["tmp"]


# Separate processes.

_SPAWN = multiprocessing.get_context("spawn")


def _build_in_a_second(root: Path, begun: Path) -> None:
    def build(folder: Path) -> dict[str, Any]:
        begun.touch()
        time.sleep(1)
        (folder / "engine.onnx").write_bytes(b"engine")
        return {"built_by": os.getpid()}

    Store(root).get("engines", ENGINE, build)


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


# Disks.


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
    ids=["disk", "quota", "safetensors"],
)
def test_a_full_disk_is_named_with_the_cure(store: Store, error: Exception) -> None:
    with pytest.raises(StoreError, match=rf"no space left in the store {store.root} .*GB free.*--store"):
        store.get("engines", ENGINE, failing(error))
    assert leftovers(store) == ["tmp"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_device_that_is_really_full(store: Store) -> None:
    def build(folder: Path) -> dict[str, Any]:
        (folder / "engine.onnx").symlink_to("/dev/full")
        (folder / "engine.onnx").write_bytes(b"engine")
        return {}

    with pytest.raises(StoreError, match="no space left in the store"):
        store.get("engines", ENGINE, build)
    assert leftovers(store) == ["tmp"]


def test_a_store_that_cannot_be_a_folder_is_named_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    root = tmp_path / "file" / "store"
    with pytest.raises(StoreError, match=rf"cannot write to the store {root}: Not a directory; .*--store"):
        Store(root).get("engines", ENGINE, Build())


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


def test_the_default_store_is_the_environments_or_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DEEPCACHE_TRT_STORE", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv("DEEPCACHE_TRT_STORE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_root() == tmp_path / "cache" / "deepcache-trt"


def test_a_tilde_is_the_users_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Store(Path("~/store")).root == tmp_path / "store"
