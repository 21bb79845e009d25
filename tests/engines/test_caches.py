"""Caches of backends: what was changed since it was written is not loaded, and learnt again."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepcache_trt.engines import caches
from deepcache_trt.engines.manifest import ALWAYS_HASHED_BYTES
from deepcache_trt.engines.store import Store
from tests.commands.command_line import Run


def test_a_file_is_what_was_sealed_or_is_not_loaded(tmp_path: Path) -> None:
    file = tmp_path / "kernels.cache"
    assert not caches.is_usable(file)
    caches.keep(file, b"what was learnt")
    assert caches.is_usable(file)
    caches.keep(file, b"what was learnt, and more")
    assert caches.is_usable(file)
    for damage in (b"", b"what was learnt, and morE", b"what was learnt, and more of it"):
        file.write_bytes(damage)
        assert not caches.is_usable(file)
        assert list(tmp_path.iterdir()) == []
        caches.keep(file, b"what was learnt, and more")


def test_every_bit_of_a_file_and_of_its_seal_counts(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    file = tmp_path / "kernels.cache"
    caches.keep(file, bytes(range(64)))
    for each in sorted(tmp_path.iterdir()):
        whole = each.read_bytes()
        for place in range(len(whole)):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << place % 8
            each.write_bytes(damaged)
            assert not caches.is_sealed(file), (each.name, place)
        each.write_bytes(whole)
        record_property("bytes flipped, each noticed", len(whole))
    assert caches.is_sealed(file)


def test_without_its_seal_a_file_is_nobodys(tmp_path: Path) -> None:
    file = tmp_path / "kernels.cache"
    file.write_bytes(b"of somebody else")
    assert not caches.is_usable(file)
    assert not file.exists()


def test_verify_reads_caches_too_and_removes_what_is_damaged(tmp_path: Path, run: Run) -> None:
    file = tmp_path / "caches" / "kernels" / "some-backend-1" / "key"
    file.parent.mkdir(parents=True)
    caches.keep(file, b"what was learnt")
    own = file.with_name("of a backend that keeps files by itself")
    own.touch()
    assert run("store", "verify", "--store", tmp_path).code == 0
    file.write_bytes(b"what was learned")
    told = run("store", "verify", "--store", tmp_path)
    assert told.code == 1
    assert "caches/kernels/some-backend-1/key: it is not what was written there (removed)" in told.out
    assert not file.exists()
    assert run("store", "verify", "--store", tmp_path).code == 0
    assert own.exists()


def test_verify_removes_a_large_file_that_was_changed_and_has_its_time_again(tmp_path: Path, run: Run) -> None:
    store = Store(tmp_path)

    def build(folder: Path) -> dict[str, Any]:
        (folder / "plan").touch()
        os.truncate(folder / "plan", ALWAYS_HASHED_BYTES + 1)
        return {}

    found = store.get("engines", {"n": 1}, build)
    times = (found.folder / "plan").stat()
    with (found.folder / "plan").open("r+b") as stream:
        stream.write(b"1")
    os.utime(found.folder / "plan", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert store.find("engines", found.key) is not None  # it is not read every time
    told = run("store", "verify", "--store", tmp_path)
    assert told.code == 1
    assert f"engines/{found.key}: plan is not what the manifest says (removed)" in told.out
    assert store.find("engines", found.key) is None
