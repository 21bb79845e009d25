"""The manifest of an artefact: what it is, and which files it has, with their hashes.

Nothing of it is used before all of it has been checked: that it is whole, by a hash of its own; that it and its
description have the form in which they are written; and that it names nothing but plain files in its own folder.
"""

import hashlib
import json
import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from deepcache_trt.errors import DamagedError
from deepcache_trt.tensors import DTYPES

MANIFEST = "manifest.json"

# Larger files are hashed when they are stored and again only if their size or time of change differs.
ALWAYS_HASHED_BYTES = 64 << 20

# The coarsest clock of a file system that is in use has steps of two seconds.
_SETTLED_SECONDS = 3.0

# Far more than any has, and far less than would fill the memory.
_MOST_BYTES = 64 << 20

_SHA256 = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_COUNT = {"type": "integer", "minimum": 0}
_TEXT = {"type": "string", "maxLength": 4096}
_TEXTS = {"type": "array", "items": _TEXT}
_KEY = {"type": "string", "pattern": "^[0-9a-f]{20}$"}


def _exactly(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


_FILE = _exactly({"sha256": _SHA256, "size": _COUNT, "mtime_ns": {"type": "integer"}})
_FORM = Draft202012Validator(
    _exactly(
        {
            "about": {"type": "object"},
            # A name in the folder itself: no path, no way out of it, and not the manifest.
            "files": {
                "type": "object",
                "propertyNames": {"pattern": r"^(?!\.{1,2}$)(?!manifest\.json$)[^/\\\x00]{1,255}$"},
                "additionalProperties": _FILE,
            },
            "created": _COUNT,
            "sha256": _SHA256,
        }
    )
)

_SIZE = {"type": "integer", "minimum": 1, "maximum": 1 << 31}
_AXES = ("batch", "height", "width", "sequence")
_TENSOR = _exactly(
    {
        "name": _TEXT,
        "dtype": {"enum": [*DTYPES]},
        "shape": {"type": "array", "maxItems": 16, "items": {"type": ["integer", "string"], "maxLength": 200}},
    }
)
_TENSORS = {"type": "array", "items": _TENSOR}
_ENGINE = {
    "graph": _KEY,
    "weights": _KEY,
    "model": _TEXT,
    "component": _TEXT,
    "dtype": _TEXT,
    "backend": _TEXT,
    "backend_version": _TEXT,
    "device": _TEXT,
    "inputs": _TENSORS,
    "outputs": _TENSORS,
    "profiles": {
        "type": "array",
        "minItems": 1,
        "items": _exactly(dict.fromkeys(_AXES, _exactly(dict.fromkeys(("min", "opt", "max"), _SIZE)))),
    },
}
# What is read of a description: that of an engine says which backend it is for.
_DESCRIPTION = Draft202012Validator(
    {
        "properties": {
            **_ENGINE,
            "variant": _exactly(
                {"name": _TEXT, "consumes": _TEXTS, "emits": _TEXTS, "outputs": {"anyOf": [_TEXTS, {"type": "null"}]}}
            ),
            "segment": _exactly({"name": _TEXT, "inputs": _TEXTS, "outputs": _TEXTS}),
            "build_options": _exactly(
                {
                    "optimization_level": {"type": ["integer", "null"]},
                    "workspace_bytes": {"type": ["integer", "null"]},
                    "refittable": {"type": "boolean"},
                }
            ),
            "precision": _TEXT,
            "quantized": _TEXTS,
            # What a compiler told of an engine plan.
            "built": {
                "type": "object",
                "properties": {"quantized_layers": _COUNT, "not_in_8_bits": _TEXTS},
                "dependentRequired": {"quantized_layers": ["not_in_8_bits"]},
            },
            # Of a calibration: by the names of weights, what is divided by.
            "scales": {"type": "object", "additionalProperties": {"type": "number", "exclusiveMinimum": 0}},
            "check": {
                "type": "object",
                "properties": {"usable": {"type": "boolean"}, "reason": _TEXT},
                "required": ["usable", "reason"],
            },
        },
        "dependentRequired": {"backend": [*_ENGINE]},
        "dependentSchemas": {"backend": {"oneOf": [{"required": ["variant"]}, {"required": ["segment"]}]}},
    }
)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Of one artefact.

    Attributes:
        about: what it is made of and what it is; as JSON.
        files: the hash, the size and the time of change of each file, by its name.
        created: seconds since 1970.
    """

    about: dict[str, Any]
    files: Mapping[str, Mapping[str, Any]]
    created: int

    def to_bytes(self) -> bytes:
        """What a file of it holds: JSON, with the hash of itself."""
        content = {"about": self.about, "files": dict(self.files), "created": self.created}
        return json.dumps({**content, "sha256": _hash_of(content)}, indent=2).encode()

    def write(self, path: Path) -> None:
        """Write it."""
        path.write_bytes(self.to_bytes())


def read(path: Path) -> Manifest:
    """The manifest in a file, checked as a whole.

    Raises:
        FileNotFoundError: there is none.
        DamagedError: it is not what was written, or names files that are no plain files of its folder.
    """
    try:
        status = path.lstat()
        is_plain, is_small = stat.S_ISREG(status.st_mode), status.st_size <= _MOST_BYTES
        said: Any = json.loads(path.read_text(encoding="utf-8")) if is_plain and is_small else None
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, ValueError, RecursionError) as error:  # whatever a damaged file gives
        raise DamagedError(f"it is no JSON ({type(error).__name__})") from error
    if not (is_plain and is_small):
        raise DamagedError("it is too large" if is_plain else "it is no plain file")
    if _identity(status) in _sound:
        said.pop("sha256")
    else:
        _check(said)
        if _is_settled(status):
            _sound.add(_identity(status))
    return Manifest(about=said["about"], files=said["files"], created=said["created"])


def _check(said: Any) -> None:
    """Raise DamagedError unless a manifest is whole; takes its hash out of it."""
    _check_form(_FORM, said, "it")
    kept = said.pop("sha256")
    if _hash_of(said) != kept:
        raise DamagedError("it was changed since it was written")
    _check_form(_DESCRIPTION, said["about"], "its description")


def _check_form(form: Draft202012Validator, said: Any, name: str) -> None:
    for wrong in form.iter_errors(said):
        where = ".".join(str(each) for each in wrong.absolute_path)
        raise DamagedError(f"{where or name} has another form ({wrong.message[:80]})")


def _hash_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def record(file: Path) -> dict[str, Any]:
    """What a manifest says of a file."""
    status = file.stat()
    return {"sha256": _known_sha256(file), "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def is_unchanged(file: Path, recorded: Mapping[str, Any], *, thoroughly: bool = False) -> bool:
    """Whether a file is the plain one that was recorded.

    A large one is believed to be if its size and its time of change are the same, unless it is read `thoroughly`.
    """
    try:
        status = file.lstat()
    except OSError:
        return False
    if not stat.S_ISREG(status.st_mode) or status.st_size != recorded["size"]:
        return False
    is_large = status.st_size > ALWAYS_HASHED_BYTES
    if is_large and not thoroughly and status.st_mtime_ns == recorded["mtime_ns"]:
        return True
    try:
        found = _sha256(file) if thoroughly else _known_sha256(file)
        return bool(found == recorded["sha256"])
    except OSError:  # a disk that no longer gives what it has
        return False


# What this process has read and found, by what tells a file from others and from itself before it was written to.
_hashed: dict[tuple[int, ...], str] = {}
_sound: set[tuple[int, ...]] = set()


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _is_settled(status: os.stat_result) -> bool:
    """Whether a file that is written to from now on has another time of change: clocks of file systems are coarse."""
    return time.time() - status.st_ctime > _SETTLED_SECONDS


def _known_sha256(file: Path) -> str:
    """The hash of a file, which is read once for all in this process that ask for it."""
    status = file.stat()
    is_large = status.st_size > ALWAYS_HASHED_BYTES
    # To be linked is a change too, and large files are linked by many artefacts.
    identity = _identity(status)[:-1] if is_large else _identity(status)
    if identity in _hashed:
        return _hashed[identity]
    found = _sha256(file)
    if is_large or _is_settled(status):
        _hashed[identity] = found
    return found


def _sha256(file: Path) -> str:
    with open(os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
