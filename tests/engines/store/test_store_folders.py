"""Where a store lies: its scratch folders, disks that are full, and its own folder."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from deepcache_trt.engines.store import Store, default_root
from deepcache_trt.errors import CheckpointError, StoreError
from tests.engines.store.builds import ENGINE, Build, failing, leftovers

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


def test_the_default_store_is_the_environments_or_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DEEPCACHE_TRT_STORE", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv("DEEPCACHE_TRT_STORE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_root() == tmp_path / "cache" / "deepcache-trt"


def test_a_tilde_is_the_users_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Store(Path("~/store")).root == tmp_path / "store"
