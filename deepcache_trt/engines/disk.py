"""What the system says of a store's disk, as errors that name the store and the cure."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deepcache_trt.errors import StoreError


@contextmanager
def as_store_errors(root: Path) -> Iterator[None]:
    """Raise StoreError for what the system refuses of the store at `root`; other errors stay as they are."""
    try:
        yield
    except Exception as error:
        number = _system_error(error)
        if number in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(_existing(root)).free / 1e9
            raise StoreError(
                f"no space left in the store {root} ({free:.1f} GB free); free some, or choose another with --store"
            ) from error
        if number in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR):
            raise StoreError(
                f"cannot write to the store {root}: {os.strerror(number)}; choose another with --store"
            ) from error
        raise


def _system_error(error: Exception) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    written_in_rust = re.search(r"\(os error (\d+)\)", str(error))  # safetensors has an exception of its own
    return int(written_in_rust[1]) if written_in_rust else None


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)
