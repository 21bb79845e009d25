"""What comes and goes with adapters takes a stated room of the disk, and gives way by least recent use."""

import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from deepcache_trt.engines import upkeep
from deepcache_trt.engines.store import Artefact, Store
from deepcache_trt.errors import StoreError

KB = 1000


@pytest.fixture(autouse=True)
def _a_room_of_ten_kilobytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPCACHE_TRT_ADAPTERS_GB", "0.00001")
    monkeypatch.setattr(upkeep, "BEING_OPENED_SECONDS", 0.0)


def weights(store: Store, name: str, *, size: int = 4 * KB, is_passing: bool = True) -> Artefact:
    def build(folder: Path) -> dict[str, Any]:
        (folder / "weights-00.safetensors").write_bytes(bytes(size))
        return {"name": name}

    return store.get("weights", {"fingerprint": name}, build, passing=is_passing)


def engine(store: Store, of: Artefact, *, is_passing: bool = True) -> Artefact:
    """With the weights linked beside a graph of a kilobyte."""

    def build(folder: Path) -> dict[str, Any]:
        (folder / "engine.onnx").write_bytes(bytes(KB))
        os.link(of.folder / "weights-00.safetensors", folder / "weights-00.safetensors")
        return {"weights": of.key}

    return store.get("engines", {"weights": of.key}, build, passing=is_passing)


def grow_old(*artefacts: Artefact) -> None:
    """As if they had been used an hour ago, each a second after the one before."""
    for second, artefact in enumerate(artefacts):
        os.utime(artefact.folder, times=(time.time() - 3600 + second,) * 2)


def names(store: Store) -> set[str]:
    return {artefact.about["name"] for artefact in store.list() if artefact.kind == "weights"}


def test_those_used_longest_ago_give_way(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, second = weights(store, "first"), weights(store, "second")
    grow_old(first, second)
    assert weights(store, "first").folder == first.folder, "used again"
    weights(store, "third")
    assert names(store) == {"first", "third"}


def test_to_be_listed_is_not_to_be_used(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artefacts = weights(store, "first"), weights(store, "second")
    grow_old(*artefacts)
    before = [artefact.folder.stat().st_mtime_ns for artefact in artefacts]
    assert names(store) == {"first", "second"}
    assert [artefact.folder.stat().st_mtime_ns for artefact in artefacts] == before


def test_what_is_linked_counts_once_and_goes_with_its_weights(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = weights(store, "first")
    made = engine(store, first)
    assert names(store) == {"first"}
    grow_old(first, made)
    weights(store, "second", size=3 * KB)
    assert names(store) == {"first", "second"}, "4 + 1 + 3 kilobytes and the manifests: less than ten"
    weights(store, "third", size=3 * KB)
    assert names(store) == {"second", "third"}
    assert not [artefact for artefact in store.list() if artefact.kind == "engines"]


def test_what_is_being_built_stays_however_small_the_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPCACHE_TRT_ADAPTERS_GB", "0")
    store = Store(tmp_path)
    first = weights(store, "first")
    grow_old(first)
    assert engine(store, first).folder.is_dir()
    assert names(store) == {"first"}


def test_what_was_just_used_stays_for_who_may_be_opening_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "BEING_OPENED_SECONDS", 60.0)
    store = Store(tmp_path)
    for name in "abcd":
        weights(store, name)
    assert names(store) == {"a", "b", "c", "d"}


def test_what_is_no_adapters_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    checkpoint = weights(store, "checkpoint", size=50 * KB, is_passing=False)
    grow_old(checkpoint, engine(store, checkpoint, is_passing=False))
    for name in "abcd":
        grow_old(weights(store, name))
    assert names(store) == {"checkpoint", "c", "d"}
    assert sum(artefact.kind == "engines" for artefact in store.list()) == 1


def test_what_backends_compiled_of_an_engine_counts_and_goes_with_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = weights(store, "first", size=KB)
    made = engine(store, first)
    compiled = tmp_path / "caches" / "engines" / "openvino-2026" / made.key
    compiled.mkdir(parents=True)
    (compiled / "profile.blob").write_bytes(bytes(9 * KB))
    grow_old(first, made)
    weights(store, "second", size=KB)
    assert names(store) == {"second"}
    assert not compiled.exists()


@pytest.mark.parametrize("said", ["20 GB", "", "inf", "-inf", "nan", "1e400", "-1"])
def test_a_setting_that_is_no_number_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("DEEPCACHE_TRT_ADAPTERS_GB", said)
    message = f"DEEPCACHE_TRT_ADAPTERS_GB={said!r} is no number of gigabytes; write for exam"
    with pytest.raises(StoreError, match=re.escape(message)):
        weights(Store(tmp_path), "first")
