"""What is damaged in a store is found to be so, and built again."""

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deepcache_trt.engines import manifest
from deepcache_trt.engines.manifest import MANIFEST
from deepcache_trt.engines.store import Store, key_of
from tests.engines.store.builds import ENGINE, Build

LARGE = (64 << 20) + 1  # the store does not hash a larger file every time


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


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.strip("_"))
def test_a_search_leaves_out_what_is_damaged(store: Store, damage: Callable[[Path], None]) -> None:
    whole = store.get("engines", ENGINE, Build())
    damage(store.get("engines", {"n": 2}, Build()).folder)
    assert list(store.search("engines", {"model": "digits"})) == [whole]


@pytest.mark.parametrize("name", ["engine.onnx", MANIFEST])
def test_what_was_read_before_is_read_again_where_it_has_changed_and_only_there(
    store: Store, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(manifest, "_SETTLED_SECONDS", 0.02)
    found = store.get("engines", ENGINE, Build())
    time.sleep(0.05)
    assert store.find("engines", found.key) == found
    with monkeypatch.context() as reading:
        reading.setattr(manifest, "_sha256", lambda file: pytest.fail(f"{file} is read again"))
        assert store.find("engines", found.key) == found
    content = bytearray((found.folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (found.folder / name).write_bytes(content)
    assert store.find("engines", found.key) is None
