"""Files of others: whatever they hold, reading them ends in what they say, an OSError or a ValueError of one line."""

import contextlib
import json
import os
import time
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from deepcache_trt import documents
from deepcache_trt.documents import parsed, read_arrays, read_bytes, read_json, read_text

Made = Callable[[Path], object]

HOSTILE: dict[str, tuple[Made, str]] = {
    "no file": (lambda file: None, "No such file"),
    "a folder": (lambda file: file.mkdir(), "Is a directory"),
    "a pipe": (os.mkfifo, "it is a pipe or a device, no plain file"),
    "a device without an end": (lambda file: file.symlink_to("/dev/zero"), "it is a pipe or a device"),
    "memory": (lambda file: file.symlink_to("/proc/self/mem"), "Input/output error"),
    "a link to itself": (lambda file: file.symlink_to(file), "symbolic links"),
    "a gigabyte": (lambda file: _sparse(file, 1 << 30), "it holds more than 64 MB"),
    "other letters": (lambda file: file.write_bytes(b'{"a":\n"\xff\xfe"}'), "line 2 is not UTF-8"),
    "a deep list": (lambda file: file.write_text("[" * 100_000 + "]" * 100_000), "it is nested too deeply"),
    "a deep object": (lambda file: file.write_text('{"a":' * 100_000 + "1" + "}" * 100_000), "nested too deeply"),
    "a number without an end": (lambda file: file.write_text("9" * 100_000), "digits"),
    "nothing": (lambda file: file.write_text(""), "Expecting value"),
}


def _sparse(file: Path, size: int) -> None:
    with file.open("wb") as stream:
        stream.truncate(size)


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_what_is_no_json_is_said_within_a_second(tmp_path: Path, name: str) -> None:
    made, message = HOSTILE[name]
    file = tmp_path / "file.json"
    made(file)
    began = time.monotonic()
    with pytest.raises((OSError, ValueError), match=message) as raised:
        read_json(file)
    assert time.monotonic() - began < 1
    assert "\n" not in str(raised.value)


@given(content=st.binary(max_size=200) | st.text(alphabet='{}[]":,0123456789eE+-.\\u ', max_size=200).map(str.encode))
def test_any_bytes_are_read_or_refused(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("bytes") / "file.json"
    file.write_bytes(content)
    assert read_bytes(file) == content
    for read in (read_text, read_json):
        with contextlib.suppress(ValueError):
            read(file)


def test_a_mark_at_the_begin_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "marked.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(["é"]).encode())
    assert read_json(tmp_path / "marked.json") == ["é"]


@pytest.mark.parametrize("parse", [tomllib.loads, yaml.safe_load], ids=["toml", "yaml"])
def test_depth_is_refused_in_other_languages_too(parse: Callable[[str], object]) -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parsed("a = " * (parse is tomllib.loads) + "[" * 5000 + "]" * 5000, parse)


# Arrays.


def test_arrays_are_read_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", a=np.arange(3), b=np.ones(2))
    assert read_arrays(tmp_path / "two.npz", ["a", "c"]).keys() == {"a"}
    assert read_arrays(tmp_path / "two.npz").keys() == {"a", "b"}


def test_a_small_file_that_unpacks_to_more_than_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sizes that a zip file says are those that it is unpacked to, and no more."""
    np.savez_compressed(tmp_path / "zeros.npz", a=np.zeros(4 << 20))
    assert (tmp_path / "zeros.npz").stat().st_size < 1 << 17
    import psutil

    little = psutil.virtual_memory()._replace(available=1 << 24)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: little)
    with pytest.raises(ValueError, match=r"unpacks to 0\.0 GB, and 0\.0 GB of memory are free"):
        read_arrays(tmp_path / "zeros.npz")


@pytest.mark.parametrize("shape", ["(10000000000000,)", "(-1,)", "(1,'x')", "__import__('os').abort()", "(" * 10_000])
def test_an_array_that_says_another_shape_than_it_has_is_refused(tmp_path: Path, shape: str) -> None:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    with zipfile.ZipFile(tmp_path / "false.npz", "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x02\x00" + len(header).to_bytes(4, "little") + header + b"\0" * 64)
    with pytest.raises(ValueError, match=r"\S"):
        read_arrays(tmp_path / "false.npz")


def test_a_pickle_among_arrays_is_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", a=np.array([{"an": "object"}], dtype=object))
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        read_arrays(tmp_path / "objects.npz")


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "whole.npz", a=np.arange(1000))
    whole = (tmp_path / "whole.npz").read_bytes()
    for cut in range(0, len(whole), 97):
        (tmp_path / "cut.npz").write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="it is no whole"):
            read_arrays(tmp_path / "cut.npz")
        flipped = bytearray(whole)
        flipped[cut] ^= 0xFF
        (tmp_path / "flipped.npz").write_bytes(flipped)
        with contextlib.suppress(ValueError):
            read_arrays(tmp_path / "flipped.npz")


def test_the_limit_is_above_what_tokenizers_have() -> None:
    assert documents.MOST_BYTES > 40 << 20  # those of the largest vocabularies that are published take 33 MB
