"""Room for what comes and goes: the merged weights of adapters and what is built of them, by least recent use.

Each strength of a LoRA makes other weights, and with them other engines. They are kept for the next time, and together
take no more than `$DEEPCACHE_TRT_ADAPTERS_GB` of the disk, 20 GB if it says nothing. What is still in use somewhere
stays readable until it is let go: a file that is open outlives its name.
"""

import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from deepcache_trt.engines.manifest import read
from deepcache_trt.errors import DamagedError, StoreError

# Marks such an artefact in its manifest.
PASSING = "passing"

_SETTING = "DEEPCACHE_TRT_ADAPTERS_GB"
_DEFAULT_GB = 20.0

# Another process may have found an artefact and be about to open it.
BEING_OPENED_SECONDS = 60.0


@dataclass(frozen=True)
class _Passing:
    folder: Path
    weights: str  # the key of those that it is, or is made of
    used: float
    files: dict[tuple[int, int], int]  # bytes by device and inode: engines link their weights


def remove(folder: Path, root: Path) -> None:
    """An artefact, all at once for whoever looks for it, and with what backends have compiled of it."""
    gone = root / "tmp" / uuid.uuid4().hex
    with suppress(OSError):
        if folder.is_symlink():
            folder.unlink()
        else:
            gone.parent.mkdir(exist_ok=True)
            folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
    for compiled in root.glob(f"caches/*/*/{folder.name}*"):
        shutil.rmtree(compiled, ignore_errors=True)


def room_bytes() -> int:
    """How much of the disk passing artefacts may take.

    Raises:
        StoreError: the setting is no number.
    """
    said = bytes_in_setting(_SETTING, example=20)
    return int(_DEFAULT_GB * 1e9) if said is None else said


def bytes_in_setting(setting: str, *, example: int) -> int | None:
    """A number of gigabytes in the environment, in bytes; None where it says nothing.

    Raises:
        StoreError: the setting is no number, or none that a disk or a memory could have.
    """
    said = os.environ.get(setting)
    if said is None:
        return None
    try:
        size = int(float(said) * 1e9)
    except (ValueError, OverflowError):
        size = -1
    if size < 0:
        raise StoreError(f"{setting}={said!r} is no number of gigabytes; write for example {setting}={example}")
    return size


def note_use(folder: Path) -> None:
    """The artefact in this folder is used now; its files stay as they are, their times too."""
    with suppress(OSError):  # in a store that others may only read
        os.utime(folder)


def make_room(root: Path, *, weights: str) -> None:
    """Remove the passing artefacts that were used longest ago until the rest fits in its room.

    Args:
        root: of the store.
        weights: the key of those that are built of now, which stay with all that is made of them.
    """
    held = sorted(_held(root), key=lambda artefact: artefact.used)
    room, now = room_bytes(), time.time()
    for artefact in list(held):
        if _size(held) <= room:
            return
        if artefact.weights != weights and now - artefact.used > BEING_OPENED_SECONDS:
            remove(artefact.folder, root)
            held.remove(artefact)


def _size(held: list[_Passing]) -> int:
    """Bytes of all files, those that are linked several times once."""
    files: dict[tuple[int, int], int] = {}
    for artefact in held:
        files |= artefact.files
    return sum(files.values())


def _held(root: Path) -> Iterator[_Passing]:
    for manifest in root.glob("*/*/manifest.json"):
        with suppress(OSError, DamagedError):  # `Store.find` reports a damaged one
            about = read(manifest).about
            if about.get(PASSING):
                folder = manifest.parent
                states = [file.stat() for file in (*folder.iterdir(), *compiled_of(root, folder.name))]
                files = {(state.st_dev, state.st_ino): state.st_size for state in states}
                yield _Passing(folder, about.get("weights", folder.name), folder.stat().st_mtime, files)


def compiled_of(root: Path, key: str) -> Iterator[Path]:
    """What backends have compiled of an engine."""
    return (file for folder in root.glob(f"caches/*/*/{key}*") for file in folder.rglob("*") if file.is_file())
