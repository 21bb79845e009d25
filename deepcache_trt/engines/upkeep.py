"""What a store holds, and what of it can go: by age, by size, and for good where no version here can use it.

Whatever goes is renamed first, so that nobody finds a half of it; what is open somewhere stays readable there until it
is let go. `$DEEPCACHE_TRT_STORE_GB` is a size that a store keeps to by itself, after each build.

Each strength of a LoRA makes other weights, and with them other engines: these pass. They are kept for the next time,
and together take no more than `$DEEPCACHE_TRT_ADAPTERS_GB` of the disk, 20 GB if it says nothing.
"""

import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from deepcache_trt.engines.manifest import MANIFEST, read
from deepcache_trt.errors import DamagedError, StoreError

KINDS = ("graphs", "weights", "calibrations", "engines")

# Marks in its manifest what passes.
PASSING = "passing"

# Another process may have found an artefact and be about to open it.
BEING_OPENED_SECONDS = 60.0

_SETTING, _PASSING_SETTING = "DEEPCACHE_TRT_STORE_GB", "DEEPCACHE_TRT_ADAPTERS_GB"
_PASSING_GB = 20.0


@dataclass(frozen=True, kw_only=True)
class Held:
    """An artefact as it lies on the disk.

    Attributes:
        kind: of it.
        key: its name.
        folder: where it is.
        about: what its manifest says; empty where that is damaged.
        damage: what is wrong with its manifest.
        created: when it was built, in seconds since 1970.
        used: when it was last asked for.
        files: bytes by device and inode, of all that is to it; what a backend has compiled of it too.
        links: how many names each of them has, in the store and elsewhere.
    """

    kind: str
    key: str
    folder: Path
    about: dict[str, Any] = field(default_factory=dict)
    damage: str = ""
    created: float = 0.0
    used: float = 0.0
    files: dict[tuple[int, int], int] = field(default_factory=dict)
    links: dict[tuple[int, int], int] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What it was made for, in words."""
        piece = self.about.get("variant") or self.about.get("segment") or {}
        words = [self.about.get(name, "") for name in ("model", "component", "class", "dtype")]
        return " ".join(filter(None, (*words, piece.get("name", ""))))

    @property
    def needs(self) -> set[tuple[str, str]]:
        """The artefacts that an engine is made of."""
        kinds = {"graph": "graphs", "weights": "weights"}
        return {(kind, self.about[part]) for part, kind in kinds.items() if part in self.about}


def held(root: Path) -> list[Held]:
    """Everything in the store at `root`, by kind, the least recently used first; files are not read."""
    found = [_held(kind, folder, root) for kind in KINDS for folder in sorted((root / kind).glob("*"))]
    return sorted(found, key=lambda each: (KINDS.index(each.kind), each.used))


def _held(kind: str, folder: Path, root: Path) -> Held:
    files: dict[tuple[int, int], int] = {}
    links: dict[tuple[int, int], int] = {}
    for file in (*(folder.iterdir() if folder.is_dir() else ()), *_compiled_of(root, folder.name)):
        with suppress(OSError):
            state = file.lstat()
            files[state.st_dev, state.st_ino], links[state.st_dev, state.st_ino] = state.st_size, state.st_nlink
    entry = Held(kind=kind, key=folder.name, folder=folder, files=files, links=links)
    try:
        if folder.is_symlink():
            raise DamagedError("it is a link")
        manifest = read(folder / MANIFEST)
        return replace(entry, about=manifest.about, created=manifest.created, used=folder.stat().st_mtime)
    except (OSError, DamagedError) as error:
        return replace(entry, damage=str(error))


def _compiled_of(root: Path, key: str) -> Iterator[Path]:
    """What backends have compiled of an engine."""
    return (file for folder in root.glob(f"caches/*/*/{key}*") for file in folder.rglob("*") if file.is_file())


def bytes_of(everything: Sequence[Held]) -> int:
    """What a store takes of the disk: a file that several link counts once, one of a checkpoint beside not at all."""
    own = _own(everything)
    return sum(size for inode, size in _sizes(everything).items() if inode in own)


def _sizes(artefacts: Sequence[Held]) -> dict[tuple[int, int], int]:
    return {inode: size for each in artefacts for inode, size in each.files.items()}


def _own(everything: Sequence[Held]) -> set[tuple[int, int]]:
    """The files that nothing outside of the store links."""
    names = Counter(inode for each in everything for inode in each.files)
    return {inode for each in everything for inode, count in each.links.items() if count <= names[inode]}


def collect(
    root: Path,
    *,
    max_bytes: int | None = None,
    unused_seconds: float | None = None,
    is_outdated: Callable[[Held], bool] = lambda _: False,
    dry: bool = False,
) -> Iterator[Held]:
    """Remove what can go, and give each of it.

    What is damaged, outdated or was not used for long goes; then, until the rest fits, what adapters have left and what
    was used longest ago. What an engine that stays is made of stays too, and what was asked for in the last minute,
    which may be about to be opened.

    Args:
        root: of the store.
        max_bytes: what may stay, of the disk.
        unused_seconds: how long ago something that stays was used at most.
        is_outdated: whether an artefact is of no use to any version that is here.
        dry: only say what would go.
    """
    left, now = held(root), time.time()
    own = _own(left)

    def goes(each: Held) -> bool:
        needed = {name for other in left if other is not each for name in other.needs}
        if now - each.used <= BEING_OPENED_SECONDS or (each.kind, each.key) in needed or not (dry or drop(root, each)):
            return False
        left.remove(each)
        return True

    # Engines before what they are made of.
    order = sorted(left, key=lambda each: (not each.about.get(PASSING), each.kind != "engines", each.used))
    for each in order:
        is_old = unused_seconds is not None and now - each.used > unused_seconds
        if (each.damage or is_old or is_outdated(each)) and goes(each):
            yield each
    for each in order:
        taken = sum(size for inode, size in _sizes(left).items() if inode in own)
        if max_bytes is None or taken <= max_bytes:
            return
        if each in left and goes(each):
            yield each


def drop(root: Path, each: Held) -> bool:
    """Remove one, whatever it is needed for; whether it is gone: what is being built now stays."""
    try:
        (root / "locks").mkdir(exist_ok=True)
        with FileLock(root / "locks" / f"{each.kind}-{each.key}.lock", timeout=0):
            _remove(each.folder, root)
    except (Timeout, OSError):
        return False
    return not each.folder.exists()


def _remove(folder: Path, root: Path) -> None:
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


def keep_to_setting(root: Path) -> None:
    """What `$DEEPCACHE_TRT_STORE_GB` says; nothing where it says nothing.

    Raises:
        StoreError: it is no number.
    """
    said = bytes_in_setting(_SETTING, example=50)
    if said is not None:
        list(collect(root, max_bytes=said))


def make_room(root: Path, *, weights: str) -> None:
    """Remove the passing artefacts that were used longest ago until the rest fits in its room.

    Args:
        root: of the store.
        weights: the key of those that are built of now, which stay with all that is made of them.

    Raises:
        StoreError: the setting is no number.
    """
    said, now = bytes_in_setting(_PASSING_SETTING, example=20), time.time()
    room = int(_PASSING_GB * 1e9) if said is None else said
    left = sorted((each for each in held(root) if each.about.get(PASSING)), key=lambda each: each.used)
    for each in [*left]:
        if sum(_sizes(left).values()) <= room:
            return
        is_old = each.about.get("weights", each.key) != weights and now - each.used > BEING_OPENED_SECONDS
        if is_old and drop(root, each):
            left.remove(each)


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
