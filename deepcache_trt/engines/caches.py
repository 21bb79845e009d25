"""What backends learn on one device, in files that may go at any time: kept with a seal, and trusted no further.

A file of a cache changes while its artefact stays as it is, so no manifest of an artefact has it. Each has one of its
own beside it, the seal: what was changed, cut off or exchanged since is not loaded, and learnt again.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from deepcache_trt.engines.manifest import Manifest, is_unchanged, read, record
from deepcache_trt.engines.store import write_whole
from deepcache_trt.errors import DamagedError

_log = logging.getLogger(__name__)

_SEAL = ".seal"


def keep(path: Path, data: Any) -> None:
    """Write bytes to a file of a cache, and seal it.

    Raises:
        OSError: it cannot be written.
    """
    write_whole(path, data)
    seal(path)


def seal(path: Path) -> None:
    """Write down what a file holds, as its backend has just left it.

    Raises:
        OSError: it cannot be read, or the seal not be written.
    """
    sealed = Manifest(about={}, files={path.name: record(path)}, created=int(time.time()))
    write_whole(_seal_of(path), sealed.to_bytes())


def is_sealed(path: Path, *, thoroughly: bool = False) -> bool:
    """Whether a file is there and is what was sealed; large ones are read only if `thoroughly`."""
    try:
        recorded = read(_seal_of(path)).files.get(path.name)
    except (OSError, DamagedError):
        return False
    return recorded is not None and is_unchanged(path, recorded, thoroughly=thoroughly)


def is_usable(path: Path) -> bool:
    """Whether there is something to load; what is there and is not what was sealed is removed, and the log says so."""
    if not path.exists():
        return False
    if is_sealed(path):
        return True
    _log.warning("%s is not what was written there; it is made anew", path)
    discard(path)
    return False


def discard(path: Path) -> None:
    """Remove a file of a cache."""
    with suppress(OSError):  # it is overwritten, or never loaded
        path.unlink(missing_ok=True)
        _seal_of(path).unlink(missing_ok=True)


def kept(root: Path) -> Iterator[Path]:
    """Every file that was sealed in the store at `root`; what a backend keeps by itself has no seal, and stays."""
    sealed = (seal.with_suffix("") for seal in sorted((root / "caches").rglob(f"*{_SEAL}")))
    return (file for file in sealed if file.exists())


def _seal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}{_SEAL}")
