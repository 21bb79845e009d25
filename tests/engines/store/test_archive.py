"""Artefacts as one file: what comes out of it is what went in, and a file that is not whole changes nothing."""

import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deepcache_trt.engines import archive
from deepcache_trt.engines.store import Store
from deepcache_trt.engines.upkeep import held
from deepcache_trt.errors import StoreError
from tests.engines.store.builds import ENGINE, Build, leftovers


@pytest.fixture
def exported(store: Store, tmp_path: Path) -> Path:
    engine = store.get("engines", ENGINE, Build())

    def weights(folder: Path) -> dict[str, Any]:
        os.link(engine.folder / "weights-00.safetensors", folder / "weights-00.safetensors")
        return {}

    store.get("weights", {}, weights)
    archive.export(held(store.root), tmp_path / "engines.tar")
    return tmp_path / "engines.tar"


def test_what_comes_out_is_what_went_in(store: Store, exported: Path, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    taken = list(archive.take_in(exported, other))
    assert {(kind, key) for kind, key, _ in taken} == {(each.kind, each.key) for each in held(store.root)}
    assert all(is_new for _, _, is_new in taken)
    for each in held(store.root):
        assert other.check(each.kind, each.key, thoroughly=True).about == each.about
    links = {file.stat().st_ino for file in other.root.rglob("weights-00.safetensors")}
    assert len(links) == 1
    assert not list((other.root / "tmp").glob("*"))


def test_what_is_there_stays(store: Store, exported: Path) -> None:
    assert [is_new for _, _, is_new in archive.take_in(exported, store)] == [False, False]


def test_every_damaged_byte_is_noticed_and_nothing_is_taken_in(
    exported: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    whole = exported.read_bytes()
    other = Store(tmp_path / "other")
    for place in range(0, len(whole), 97):
        damaged = bytearray(whole)
        damaged[place] ^= 0x21
        exported.write_bytes(damaged)
        try:
            list(archive.take_in(exported, other))
        except StoreError:
            assert [name for name in leftovers(other) if name != "tmp"] == []
        else:  # a byte that tar does not read: padding, a user's name, a time
            for each in held(other.root):
                other.check(each.kind, each.key, thoroughly=True)
            assert len(held(other.root)) == 2
            shutil.rmtree(other.root)
    record_property("bytes flipped, each noticed", len(whole) // 97)


def member(name: str, content: bytes = b"x", **fields: Any) -> Callable[[tarfile.TarFile], None]:
    def add(file: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        for field, value in fields.items():
            setattr(info, field, value)
        file.addfile(info, io.BytesIO(content))

    return add


KEY = "engines/" + "0" * 20


@pytest.mark.parametrize(
    "hostile",
    [
        member("../../escaped"),
        member("/tmp/escaped"),
        member(f"{KEY}/../../escaped"),
        member("caches/x/y"),
        member(f"{KEY}/link", type=tarfile.SYMTYPE, linkname="/etc/passwd", size=0),
        member(f"{KEY}/link", type=tarfile.LNKTYPE, linkname="/etc/passwd", size=0),
        member(f"{KEY}/link", type=tarfile.LNKTYPE, linkname="../../../x", size=0),
        member(f"{KEY}/device", type=tarfile.CHRTYPE, size=0),
        member(f"{KEY}/engine.onnx"),  # without a manifest
    ],
)
def test_a_hostile_file_is_refused(hostile: Any, store: Store, tmp_path: Path) -> None:
    path = tmp_path / "hostile.tar"
    with tarfile.open(path, "w") as file:
        member("contents.json", f'["{KEY}"]'.encode())(file)
        hostile(file)
    with pytest.raises(StoreError):
        list(archive.take_in(path, store))
    assert [name for name in leftovers(store) if name != "tmp"] == []
    assert not list(tmp_path.rglob("escaped"))


def test_more_than_there_is_room_for_is_refused_before_it_is_written(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "huge.tar"
    info = tarfile.TarInfo(f"{KEY}/plan")
    info.size = 1 << 50
    with tarfile.open(path, "w") as file:
        member("contents.json", b"[]")(file)
    begun = path.read_bytes()[:1024]
    path.write_bytes(begun + info.tobuf(tarfile.PAX_FORMAT))
    with pytest.raises(StoreError, match="more than there is room for"):
        list(archive.take_in(path, store))


def test_a_compressed_file_is_refused(store: Store, exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "engines.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        file.add(exported)
    with pytest.raises(StoreError, match="no whole file"):
        list(archive.take_in(path, store))


def test_a_file_that_is_not_there_is_named(store: Store, tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.tar", tmp_path):
        with pytest.raises(StoreError, match="there is no file"):
            list(archive.take_in(path, store))
