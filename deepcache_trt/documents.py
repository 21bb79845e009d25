"""Files that other programs and other people wrote, as text or as JSON, TOML or YAML.

Reading one ends in what it says, in an OSError or in a ValueError with a reason on one line, whatever it holds: it may
be larger than the memory, nested deeper than the interpreter goes, or a pipe that nobody writes to.
"""

import errno
import json
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

# More than the largest vocabularies of tokenizers take, and little beside the memory that a model needs.
MOST_BYTES = 64 << 20

# What a person writes: YAML and TOML are read a letter at a time, by Python.
MOST_BYTES_BY_HAND = 1 << 20


def check_plain(path: Path) -> None:
    """Refuse a pipe or a device, which may have no end; of a folder the system says what is wrong.

    Raises:
        OSError: it is one, or is not there.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device, no plain file", str(path))


def read_arrays(path: Path, names: Sequence[str] | None = None) -> "dict[str, np.ndarray]":
    """Arrays of an .npz file by name: those of `names` that it has, or all of them; no pickle in it is read.

    Raises:
        OSError: as `check_plain`.
        ValueError: it is none, it is damaged, or it unpacks to more memory than is free: a small file can hold any
            number of zeros.
    """
    import zipfile
    import zlib

    import numpy as np
    import psutil

    check_plain(path)
    free = psutil.virtual_memory().available
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(each.file_size for each in archive.infolist())
        if size > free:
            raise ValueError(f"it unpacks to {size / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB of memory are free")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files if names is None or name in names}
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, SyntaxError, MemoryError) as error:
        raise ValueError(f"it is no whole .npz file: {str(error) or type(error).__name__}") from error


def read_bytes(path: Path, *, most: int = MOST_BYTES) -> bytes:
    """All that a plain file holds, links followed.

    Raises:
        OSError: it cannot be read, or is a pipe or a device.
        ValueError: it holds more than `most` bytes.
    """
    check_plain(path)
    with path.open("rb") as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it holds more than {most >> 20} MB")
    return content


def read_text(path: Path, *, most: int = MOST_BYTES) -> str:
    """The text of a plain file in UTF-8, with or without a mark of that at its begin.

    Raises:
        OSError: as `read_bytes`.
        ValueError: likewise, or it is not UTF-8.
    """
    content = read_bytes(path, most=most)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"line {line} is not UTF-8") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a text that say something, without the space around them; raises as `read_text`."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def parsed(text: str, parse: Callable[[str], Any] = json.loads) -> Any:
    """What a text says; raises ValueError where it says nothing, or is nested deeper than can be read."""
    try:
        return parse(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json(path: Path) -> Any:
    """What a JSON file says; raises as `read_text` and `parsed`."""
    return parsed(read_text(path))
