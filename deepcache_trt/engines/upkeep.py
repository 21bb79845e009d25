"""What a store holds, and what of it can go: by age, by size, and for good where no version here can use it.

Whatever goes is renamed first, so that nobody finds a half of it; what is open somewhere stays readable there until it
is let go. `$DEEPCACHE_TRT_STORE_GB` is a size that a store keeps to by itself, after each build.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from deepcache_trt.engines.manifest import MANIFEST, read
from deepcache_trt.engines.passing import BEING_OPENED_SECONDS, PASSING, bytes_in_setting, compiled_of, remove
from deepcache_trt.errors import DamagedError

KINDS = ("graphs", "weights", "engines")

_SETTING = "DEEPCACHE_TRT_STORE_GB"


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
    """

    kind: str
    key: str
    folder: Path
    about: dict[str, Any] = field(default_factory=dict)
    damage: str = ""
    created: float = 0.0
    used: float = 0.0
    files: dict[tuple[int, int], int] = field(default_factory=dict)

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
    for file in (*(folder.iterdir() if folder.is_dir() else ()), *compiled_of(root, folder.name)):
        with suppress(OSError):
            state = file.lstat()
            files[state.st_dev, state.st_ino] = state.st_size
    try:
        if folder.is_symlink():
            raise DamagedError("it is a link")
        manifest = read(folder / MANIFEST)
        used = folder.stat().st_mtime
    except (OSError, DamagedError) as error:
        return Held(kind=kind, key=folder.name, folder=folder, damage=str(error), files=files)
    return Held(
        kind=kind,
        key=folder.name,
        folder=folder,
        about=manifest.about,
        created=manifest.created,
        used=used,
        files=files,
    )


def bytes_of(artefacts: Sequence[Held]) -> int:
    """What they take of the disk: a file that several link counts once, and one of a checkpoint beside not at all."""
    sizes = {inode: size for each in artefacts for inode, size in each.files.items()}
    names = Counter(inode for each in artefacts for inode in each.files)
    elsewhere = set()
    for each in artefacts:
        for file in each.folder.glob("*"):
            with suppress(OSError):
                state = file.lstat()
                if state.st_nlink > names[state.st_dev, state.st_ino]:
                    elsewhere.add((state.st_dev, state.st_ino))
    return sum(size for inode, size in sizes.items() if inode not in elsewhere)


def collect(
    root: Path,
    *,
    max_bytes: int | None = None,
    unused_seconds: float | None = None,
    is_outdated: Callable[[Held], bool] = lambda _: False,
    dry: bool = False,
) -> Iterator[Held]:
    """Remove what can go, and give each of it.

    What is damaged and what is outdated goes; then what was not used for long; then, until the rest fits, what adapters
    have left and what was used longest ago. What an engine that stays is made of stays too, and what was asked for in
    the last minute, which may be about to be opened.

    Args:
        root: of the store.
        max_bytes: what may stay, of the disk.
        unused_seconds: how long ago something that stays was used at most.
        is_outdated: whether an artefact is of no use to any version that is here.
        dry: only say what would go.
    """
    left, now = held(root), time.time()

    def may_go(each: Held) -> bool:
        needed = {name for other in left if other is not each for name in other.needs}
        return now - each.used > BEING_OPENED_SECONDS and (each.kind, each.key) not in needed

    def is_old(each: Held) -> bool:
        return unused_seconds is not None and now - each.used > unused_seconds

    def is_too_much(_: Held) -> bool:
        return max_bytes is not None and bytes_of(left) > max_bytes

    for reason in (lambda each: bool(each.damage) or is_outdated(each), is_old, is_too_much):
        # Engines before what they are made of.
        for each in sorted(left, key=lambda each: (not each.about.get(PASSING), each.kind != "engines", each.used)):
            if reason(each) and may_go(each) and (dry or _remove(root, each)):
                left.remove(each)
                yield each


def _remove(root: Path, each: Held) -> bool:
    """Whether it is gone; what is being built now stays."""
    try:
        (root / "locks").mkdir(exist_ok=True)
        with FileLock(root / "locks" / f"{each.kind}-{each.key}.lock", timeout=0):
            remove(each.folder, root)
    except (Timeout, OSError):
        return False
    return not each.folder.exists()


def drop(root: Path, each: Held) -> bool:
    """Remove one, whatever it is needed for; whether it is gone."""
    return _remove(root, each)


def keep_to_setting(root: Path) -> None:
    """What `$DEEPCACHE_TRT_STORE_GB` says; nothing where it says nothing.

    Raises:
        StoreError: it is no number.
    """
    said = bytes_in_setting(_SETTING, example=50)
    if said is not None:
        list(collect(root, max_bytes=said))
