"""A pipeline's folder, looked at before a library reads it, and looked at again where a library could not.

Before, all that costs little: that it names no code of its own, that its files lie in it, are plain files and have
sizes that can be read, and that no number of a config would fill the memory. What else can be wrong is left to the
libraries, which find it while they load; only then each file is read, to name the one that it was.
"""

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deepcache_trt.documents import MOST_BYTES, read_bytes, read_json
from deepcache_trt.errors import CheckpointError, reason_of
from deepcache_trt.models.checkpoint.numbers import check_numbers
from deepcache_trt.models.checkpoint.weight_files import INDEX_OF_SHARDS, check_safetensors, shards
from deepcache_trt.models.single_file import SAFE

INDEX = "model_index.json"
CONFIG = "config.json"

_CURE = "download or save it again"


def check_folder(folder: Path, *, allow_pickle: bool = False) -> None:
    """Refuse a pipeline's folder that no library should read.

    Args:
        folder: that has `INDEX`; links in a cache of the hub lead to files beside it.
        allow_pickle: whether shards may be something else than safetensors.

    Raises:
        CheckpointError: it names the file, what is wrong, and the cure.
    """
    parts = read_index(folder)
    inside = _inside(folder)
    for file in _files(folder, parts):
        _check_file(file, inside)
    for part, (_, class_name) in parts.items():
        if (config := folder / part / CONFIG).is_file():
            said = _object(config)
            check_numbers(said, config)
            if str(class_name).startswith("Auto") and "auto_map" in said:
                raise CheckpointError(
                    f"{config} names code of its own in auto_map, which is not run; write the class of the model into "
                    f"{folder / INDEX}"
                )
        for index in (folder / part).glob(f"*{INDEX_OF_SHARDS}*"):
            shards(index, allow_pickle=allow_pickle)


def read_index(folder: Path) -> dict[str, tuple[str, str]]:
    """The library and the class of each component that a pipeline's folder has, by the component's name.

    Raises:
        CheckpointError: it is no such folder, or it names code of its own.
    """
    path = folder / INDEX
    said = _object(path)
    kind = said.get("_class_name", "")
    if not isinstance(kind, str) or (kind and not kind.isidentifier()):
        raise CheckpointError(
            f"{path}: _class_name is {kind!r}, no pipeline of diffusers, and code of its own is not "
            f"run; give a folder of a pipeline that diffusers has"
        )
    parts = {}
    for name, value in said.items():
        if not isinstance(value, list) or value == [None, None]:
            continue
        named = len(value) == 2 and all(isinstance(each, str) for each in value)
        if not named or not name.isidentifier() or not value[1].isidentifier() or value[1].startswith("_"):
            raise CheckpointError(f"{path}: {name} is {value!r}, no component with its library and its class; {_CURE}")
        parts[name] = (value[0], value[1])
    return parts


def check_classes(folder: Path) -> None:
    """Refuse what a pipeline's folder names that is no class of a library to be loaded from a folder.

    Nothing is imported for it but diffusers and transformers: to import a module is to run it.

    Raises:
        CheckpointError: it names the component and the class.
    """
    import sys
    from importlib import import_module

    from diffusers import pipelines

    for name, (library, class_name) in read_index(folder).items():
        if library in ("diffusers", "transformers"):
            module: Any = import_module(library)
        else:
            module = getattr(pipelines, library, None) or sys.modules.get(library)
        found = getattr(module, class_name, None)
        # Of a library that has no such class any more diffusers knows the new name, or says that there is none.
        is_gone = found is None and library in ("diffusers", "transformers")
        if not is_gone and not (isinstance(found, type) and hasattr(found, "from_pretrained")):
            raise CheckpointError(
                f"{folder / INDEX}: {name} is {library}.{class_name}, no class to be loaded from a folder; nothing is "
                f"imported because a folder says so; give a folder without it, or import {library} before"
            )


def read_config(folder: Path) -> dict[str, Any]:
    """What the config of a model's folder says.

    Raises:
        CheckpointError: it has none, or one that is no JSON object, or has a number that fills the memory.
    """
    said = _object(folder / CONFIG)
    check_numbers(said, folder / CONFIG)
    return said


def fault(folder: Path) -> str:
    """What is wrong with a file of a folder that a library could not load; "" where each can be read."""
    for file in sorted(folder.rglob("*")):
        try:
            if file.suffix == ".json" and file.is_file():
                said = read_json(file)
                if not isinstance(said, dict):
                    raise ValueError(f"it holds a {type(said).__name__}, no object")
            elif file.suffix == SAFE and file.is_file():
                check_safetensors(file)
            elif file.suffix == ".txt" and file.is_file():
                read_bytes(file).decode()
        except (OSError, ValueError) as error:
            return f"{file}: {reason_of(error)}; {_CURE}"
    return ""


def _object(path: Path) -> dict[str, Any]:
    try:
        said = read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is no config of a model: {reason_of(error)}; {_CURE}") from error
    if not isinstance(said, dict):
        raise CheckpointError(f"{path} is no config of a model, but a {type(said).__name__}; {_CURE}")
    return said


def _inside(folder: Path) -> tuple[Path, ...]:
    """Where a folder's files lie: in itself, or of a snapshot in a cache of the hub, in that model's part of it."""
    real = folder.resolve()
    model = real.parent.parent if real.parent.name == "snapshots" else real
    return (model, (model / "blobs").resolve())


def _files(folder: Path, parts: Mapping[str, Any]) -> Iterator[Path]:
    yield folder / INDEX
    for part in parts:
        # Not by its own links alone: a component's folder can be one.
        yield from (folder / part).glob("*")


def _check_file(file: Path, inside: tuple[Path, ...]) -> None:
    try:
        real = file.resolve(strict=True)
        status = real.stat()
    except (OSError, RuntimeError) as error:  # a link to nothing, or to itself
        reason = error.strerror if isinstance(error, OSError) else "it is a link to itself"
        raise CheckpointError(f"{file}: {reason}; {_CURE}") from error
    if not any(real.is_relative_to(each) for each in inside):
        raise CheckpointError(
            f"{file} is a link out of the model's folder, to {real}; put a copy there, as only a cache of the hub has "
            f"links that are followed"
        )
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise CheckpointError(f"{file} is a pipe or a device, no plain file; {_CURE}")
    if file.suffix in (".json", ".txt") and status.st_size > MOST_BYTES:
        raise CheckpointError(f"{file} has {status.st_size >> 20:,} MB, more than {MOST_BYTES >> 20}; {_CURE}")
