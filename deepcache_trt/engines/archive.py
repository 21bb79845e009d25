"""Artefacts in one file, for another machine of the same kind: a tar file, of which nothing is believed unchecked."""

import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from deepcache_trt.engines.manifest import MANIFEST, read
from deepcache_trt.engines.store import Store
from deepcache_trt.engines.upkeep import Held
from deepcache_trt.errors import DamagedError, StoreError

_NAME = re.compile(r"(graphs|weights|calibrations|engines)/([0-9a-f]{20})/([^/\\\x00]{1,255})")

# The first file: what there is to be, since a tar file that breaks off at a damaged place looks whole.
_CONTENTS = "contents.json"
_MOST_CONTENTS = 16 << 20


def export(artefacts: Sequence[Held], out: Path) -> None:
    """Write artefacts into a file; weights that several link are in it once.

    Raises:
        OSError: it cannot be written; nothing of it stays.
    """
    partial = out.with_name(f"{out.name}.{os.getpid()}")
    try:
        with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as archive:
            contents = json.dumps([f"{each.kind}/{each.key}" for each in artefacts]).encode()
            first = tarfile.TarInfo(_CONTENTS)
            first.size = len(contents)
            archive.addfile(first, io.BytesIO(contents))
            for each in artefacts:
                for file in sorted(each.folder.iterdir()):
                    archive.add(file, f"{each.kind}/{each.key}/{file.name}", recursive=False)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def take_in(file: Path, store: Store) -> Iterator[tuple[str, str, bool]]:
    """Put the artefacts of a file into a store; each one's kind and key, and whether it was not there before.

    Raises:
        DamagedError: the file, or anything in it, is not what `export` wrote; the store stays as it is.
        StoreError: the store cannot be written, or has no room.
    """
    with store.scratch() as folder:
        keys = _unpack(file, folder)
        unpacked = Store(folder)
        for kind, key in keys:
            try:
                unpacked.check(kind, key, thoroughly=True)
            except (FileNotFoundError, DamagedError) as error:
                raise DamagedError(f"{file}: {kind}/{key}: {error}; export it again") from error
        for kind, key in keys:
            source = folder / kind / key
            for name, recorded in read(source / MANIFEST).files.items():
                os.utime(source / name, ns=(recorded["mtime_ns"],) * 2)  # by which large files are known
            yield kind, key, store.adopt(kind, key, source)


def _unpack(file: Path, folder: Path) -> list[tuple[str, str]]:
    """Plain files with the names of artefacts, and links to those before them; anything else is refused."""
    keys: dict[tuple[str, str], None] = {}
    room = shutil.disk_usage(folder).free
    try:
        with tarfile.open(file, "r:") as archive:  # never a compressed one, which may hold more than a disk
            expected = _contents(archive)
            for member in archive:
                if member.name == _CONTENTS:
                    continue
                name = _NAME.fullmatch(member.name)
                if name is None or not (member.isreg() or member.islnk()):
                    raise DamagedError(f"{file} holds {member.name!r}, which is no file of an artefact")
                keys[name[1], name[2]] = None
                target = folder / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                if member.islnk():
                    if _NAME.fullmatch(member.linkname) is None or not (folder / member.linkname).is_file():
                        raise DamagedError(f"{file} holds a link from {member.name} to {member.linkname!r}")
                    os.link(folder / member.linkname, target)
                    continue
                room -= member.size
                if room < 0:
                    raise StoreError(f"{file} holds more than there is room for in {folder.parent.parent}; free some")
                content = archive.extractfile(member)
                assert content is not None
                with target.open("xb") as written:
                    shutil.copyfileobj(content, written)
    except StoreError:
        raise
    except (tarfile.TarError, EOFError, FileExistsError, ValueError, RecursionError) as error:
        raise DamagedError(f"{file} is no whole file of `deepcache-trt store export` ({error})") from error
    except (FileNotFoundError, IsADirectoryError) as error:
        raise StoreError(f"there is no file {file}") from error
    if {f"{kind}/{key}" for kind, key in keys} != expected:
        raise DamagedError(f"{file} does not hold all that it says; export it again")
    return list(keys)


def _contents(archive: tarfile.TarFile) -> set[str]:
    """What the first file says; raises ValueError where it is another."""
    first = archive.next()
    content = None if first is None or first.name != _CONTENTS else archive.extractfile(first)
    if content is None:
        raise ValueError("it does not begin with its contents")
    said = json.loads(content.read(_MOST_CONTENTS))
    if not isinstance(said, list) or not all(isinstance(each, str) for each in said):
        raise ValueError("its contents are no names")
    return set(said)
