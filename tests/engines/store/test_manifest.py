"""What a manifest says is believed as a whole or not at all, and leads nowhere but into its own folder."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcache_trt.engines import manifest
from deepcache_trt.engines.manifest import MANIFEST, Manifest
from deepcache_trt.engines.store import Artefact, Store, key_of
from deepcache_trt.errors import DamagedError
from tests.engines.store.builds import DESCRIPTION, ENGINE, Build


@pytest.fixture
def artefact(store: Store) -> Artefact:
    return store.get("engines", ENGINE, lambda folder: {**Build()(folder), **DESCRIPTION})


def rewrite(artefact: Artefact, **changes: Any) -> None:
    """The manifest of someone who knows how to write one."""
    path = artefact.folder / MANIFEST
    Manifest(**{**vars(manifest.read(path)), **changes}).write(path)


def test_what_is_written_is_what_is_read(artefact: Artefact) -> None:
    read = manifest.read(artefact.folder / MANIFEST)
    assert read.about == artefact.about
    assert set(read.files) == {"engine.onnx", "weights-00.safetensors"}


def test_every_flipped_bit_of_it_is_noticed(
    store: Store, artefact: Artefact, record_property: Callable[[str, object], None]
) -> None:
    path = artefact.folder / MANIFEST
    whole = path.read_bytes()
    said = json.loads(whole)
    for place in range(len(whole)):
        for bit in (0, 5):  # another letter, and the other case of it
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            path.write_bytes(flipped)
            try:
                found = manifest.read(path)
            except DamagedError:
                continue
            assert found.about == said["about"], f"byte {place}: only what means nothing, as space, may change"
            assert found.files == said["files"]
    record_property("bytes flipped, each noticed", 2 * len(whole))


@pytest.mark.parametrize(
    "name", ["../x", "/etc/hostname", "a/b", "..", ".", "", "a\\b", "x\0y", "x" * 256, MANIFEST, "../../../x"]
)
def test_a_name_that_leads_elsewhere_is_refused(store: Store, artefact: Artefact, name: str) -> None:
    files = manifest.read(artefact.folder / MANIFEST).files
    rewrite(artefact, files={name: files["engine.onnx"]})
    with pytest.raises(DamagedError, match="files has another form"):
        store.check("engines", artefact.key)
    assert store.find("engines", artefact.key) is None


@pytest.mark.parametrize("absolute", [True, False])
def test_a_file_that_is_a_link_is_refused(store: Store, artefact: Artefact, tmp_path: Path, absolute: bool) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"engine")
    file = artefact.folder / "engine.onnx"
    file.unlink()
    file.symlink_to(elsewhere if absolute else os.path.relpath(elsewhere, artefact.folder))
    with pytest.raises(DamagedError, match=r"engine\.onnx"):
        store.check("engines", artefact.key)


def test_a_file_that_is_a_pipe_is_refused_and_not_waited_for(store: Store, artefact: Artefact) -> None:
    file = artefact.folder / "engine.onnx"
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(DamagedError, match=r"engine\.onnx"):
        store.check("engines", artefact.key)


def test_a_folder_that_is_a_link_is_refused_and_what_it_leads_to_stays(store: Store, tmp_path: Path) -> None:
    build = Build()
    artefact = store.get("engines", ENGINE, build)
    elsewhere = artefact.folder.rename(tmp_path / "elsewhere")
    artefact.folder.symlink_to(elsewhere)
    with pytest.raises(DamagedError, match="is a link"):
        store.check("engines", artefact.key)
    rebuilt = store.get("engines", ENGINE, build)
    assert build.count == 2
    assert not rebuilt.folder.is_symlink()
    assert (elsewhere / "engine.onnx").read_bytes() == b"engine"


def test_a_manifest_that_is_a_link_is_refused(store: Store, artefact: Artefact, tmp_path: Path) -> None:
    path = artefact.folder / MANIFEST
    elsewhere = path.rename(tmp_path / "other.json")
    path.symlink_to(elsewhere)
    with pytest.raises(DamagedError, match="no plain file"):
        store.check("engines", artefact.key)


def test_a_huge_or_deep_manifest_is_refused_at_once(store: Store, artefact: Artefact) -> None:
    path = artefact.folder / MANIFEST
    path.write_text("[" * 100_000)
    with pytest.raises(DamagedError):
        store.check("engines", artefact.key)
    os.truncate(path, 1 << 40)
    with pytest.raises(DamagedError, match="too large"):
        store.check("engines", artefact.key)


@pytest.mark.parametrize("missing", sorted(DESCRIPTION.keys() - {"variant", "build_options", "check", "backend"}))
def test_a_description_without_what_is_read_of_it_is_refused(store: Store, artefact: Artefact, missing: str) -> None:
    rewrite(artefact, about={key: value for key, value in DESCRIPTION.items() if key != missing})
    with pytest.raises(DamagedError, match="its description has another form"):
        store.check("engines", artefact.key)


anything: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("entry", sorted(DESCRIPTION.keys() - {"model", "component", "device", "backend_version"}))
def test_a_description_of_another_form_is_refused(tmp_path: Path, entry: str) -> None:
    path = tmp_path / MANIFEST

    @given(value=anything.filter(lambda value: type(value) is not type(DESCRIPTION[entry])))
    def refused(value: Any) -> None:
        Manifest(about={**DESCRIPTION, entry: value}, files={}, created=0).write(path)
        with pytest.raises(DamagedError):
            manifest.read(path)

    refused()


@pytest.mark.parametrize("large", [False, True])
def test_thoroughly_checked_a_flipped_byte_is_noticed_whatever_its_time_of_change(store: Store, large: bool) -> None:
    def build(folder: Path) -> dict[str, Any]:
        (folder / "weights").touch()
        os.truncate(folder / "weights", manifest.ALWAYS_HASHED_BYTES + 1 if large else 100)
        return {}

    artefact = store.get("weights", {}, build)
    file = artefact.folder / "weights"
    times = file.stat()
    with file.open("r+b") as stream:
        stream.seek(50)
        stream.write(b"\x01")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    if large:
        assert store.check("weights", artefact.key) == artefact
    with pytest.raises(DamagedError, match="weights is not what"):
        store.check("weights", key_of({}), thoroughly=True)
