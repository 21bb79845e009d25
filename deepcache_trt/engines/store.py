"""The store: built graphs, weights and engines, found by a hash of everything that they depend on.

    <store>/graphs/<key>/    graph.onnx      of an architecture, without weights
    <store>/weights/<key>/   *.safetensors   links to a checkpoint's files, or tensors that none holds like this
    <store>/calibrations/<key>/              the scales of a model's activations, for what is quantized; in its manifest
    <store>/engines/<key>/   engine files    of a variant, with the weights linked beside them
    <store>/caches/          what backends learnt on one device: timings, kernels; may be deleted at any time
    <store>/locks/           one per key

Each artefact is a folder with a `manifest.json` that names its files and their hashes. It is written under a temporary
name and renamed when complete, so a build that is killed leaves nothing that loads.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from deepcache_trt.engines.disk import as_store_errors
from deepcache_trt.engines.manifest import MANIFEST, Manifest, is_unchanged, read, record
from deepcache_trt.engines.upkeep import KINDS, PASSING, keep_to_setting, make_room
from deepcache_trt.errors import DamagedError

_log = logging.getLogger(__name__)

# What file systems answer that know no locks, as some of a network.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)

# A temporary folder older than this belongs to a build that was killed.
_ABANDONED_SECONDS = 24 * 3600


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """A complete folder of the store and what its manifest says about it."""

    kind: str
    key: str
    folder: Path
    about: dict[str, Any]

    @property
    def size(self) -> int:
        """Bytes of its files; hard links count in full."""
        return sum(file.stat().st_size for file in self.folder.iterdir())


def write_whole(path: Path, data: Any) -> None:
    """Write bytes to a file that is there as a whole or not at all, whoever else writes it."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def key_of(ingredients: Mapping[str, Any]) -> str:
    """The name of an artefact: a hash of what it is made from."""
    text = json.dumps(ingredients, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


class Store:
    """A folder of artefacts, safe to share between processes."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser()

    def find(self, kind: str, key: str) -> Artefact | None:
        """The artefact if it is there and whole, which is used from now on; see `_whole` for one that is damaged."""
        found = self._whole(kind, key)
        if found is not None:
            with suppress(OSError):  # in a store that others may only read
                os.utime(found.folder)
        return found

    def _whole(self, kind: str, key: str, *, thoroughly: bool = False) -> Artefact | None:
        """The artefact if it is there and whole; one that was damaged is reported in the log and counts as missing."""
        folder = self.root / kind / key
        try:
            return self.check(kind, key, thoroughly=thoroughly)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except DamagedError as error:
            _log.warning("%s: %s; it will be rebuilt", folder, error)
            return None

    def check(self, kind: str, key: str, *, thoroughly: bool = False) -> Artefact:
        """The artefact, if nothing of it has changed.

        Args:
            kind: one of `KINDS`.
            key: its name.
            thoroughly: read large files too, which otherwise are known by their size and time of change.

        Raises:
            FileNotFoundError: it is not there.
            DamagedError: it is not what was stored; says which file.
        """
        folder = self.root / kind / key
        if folder.is_symlink():
            raise DamagedError("it is a link, and artefacts are folders of the store")
        try:
            manifest = read(folder / MANIFEST)
        except DamagedError as error:
            raise DamagedError(f"unreadable {MANIFEST}: {error}") from error
        changed = [
            name
            for name, recorded in manifest.files.items()
            if not is_unchanged(folder / name, recorded, thoroughly=thoroughly)
        ]
        if changed:
            raise DamagedError(f"{', '.join(changed)} is not what the manifest says")
        return Artefact(kind=kind, key=key, folder=folder, about=manifest.about)

    def get(
        self,
        kind: str,
        ingredients: Mapping[str, Any],
        build: Callable[[Path], dict[str, Any]],
        *,
        passing: bool = False,
    ) -> Artefact:
        """The artefact made from `ingredients`; if it is missing, `build(folder)` fills a folder and describes it.

        Two processes that ask for the same artefact build it once. If `build` fails, nothing is left behind.

        Args:
            kind: one of `KINDS`.
            ingredients: what it depends on.
            build: see above.
            passing: whether it gives way to others of its sort, see `engines.upkeep`.

        Raises:
            StoreError: the store cannot be written, or the disk is full.
        """
        key = key_of(ingredients)
        found = self.find(kind, key)
        if found is not None:
            return found
        with self._locked(kind, key):
            found = self.find(kind, key)  # another process may have built it while this one waited
            if found is not None:
                return found
            found = self._build(kind, key, (lambda folder: {**build(folder), PASSING: True}) if passing else build)
        if passing:
            make_room(self.root, weights=found.about.get("weights", key))
        keep_to_setting(self.root)
        return found

    def adopt(self, kind: str, key: str, folder: Path) -> bool:
        """Take a whole artefact from a folder on the store's own file system; False where there is one already."""
        with self._locked(kind, key), as_store_errors(self.root):
            if self._whole(kind, key) is not None:
                return False
            place = self.root / kind / key
            place.parent.mkdir(parents=True, exist_ok=True)
            self._set_aside(place)
            folder.rename(place)
        return True

    def list(self) -> Iterator[Artefact]:
        """Every whole artefact, by kind and age; to be listed is not to be used."""
        for kind in KINDS:
            folders = [f for f in (self.root / kind).glob("*") if (f / MANIFEST).is_file()]
            for folder in sorted(folders, key=lambda f: (f / MANIFEST).stat().st_mtime):
                found = self._whole(kind, folder.name)
                if found is not None:
                    yield found

    def search(self, kind: str, about: Mapping[str, Any]) -> Iterator[Artefact]:
        """Every whole artefact whose description has all of these entries."""
        wanted = json.loads(json.dumps(about, default=str))
        for manifest in sorted((self.root / kind).glob(f"*/{MANIFEST}")):
            try:
                fits = wanted.items() <= read(manifest).about.items()
            except (OSError, DamagedError):
                continue  # `find` reports a damaged one when it is asked for
            found = self.find(kind, manifest.parent.name) if fits else None
            if found is not None:
                yield found

    def amend(self, artefact: Artefact, **entries: Any) -> Artefact:
        """Add entries to an artefact's description; its key and files stay as they are."""
        path = artefact.folder / MANIFEST
        with self._locked(artefact.kind, artefact.key), as_store_errors(self.root):
            manifest = read(path)
            manifest.about.update(json.loads(json.dumps(entries)))
            with self.scratch() as folder:
                manifest.write(folder / MANIFEST)
                (folder / MANIFEST).replace(path)
        return replace(artefact, about=manifest.about)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A temporary folder on the store's own file system, where its files can be linked."""
        folder = self.root / "tmp" / uuid.uuid4().hex
        try:
            with as_store_errors(self.root):
                folder.mkdir(parents=True)
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _build(self, kind: str, key: str, build: Callable[[Path], dict[str, Any]]) -> Artefact:
        folder = self.root / kind / key
        temporary = self.root / "tmp" / f"{key}-{uuid.uuid4().hex[:8]}"
        try:
            with as_store_errors(self.root):
                self.remove_abandoned()
                temporary.mkdir(parents=True)
                about = json.loads(json.dumps(build(temporary)))  # what is returned is what will be read
                files = {file.name: record(file) for file in sorted(temporary.iterdir())}
                Manifest(about=about, files=files, created=int(time.time())).write(temporary / MANIFEST)
                folder.parent.mkdir(parents=True, exist_ok=True)
                if (found := self._whole(kind, key)) is not None:
                    return found  # of somebody else, where there are no locks
                self._set_aside(folder)  # it is damaged
                temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return Artefact(kind=kind, key=key, folder=folder, about=about)

    def _set_aside(self, folder: Path) -> None:
        """Remove what is in the place of an artefact, a link to elsewhere without what it leads to."""
        if folder.is_symlink() or folder.is_file():
            folder.unlink()
        elif folder.exists():
            shutil.rmtree(folder)

    @contextmanager
    def _locked(self, kind: str, key: str) -> Iterator[None]:
        locks = self.root / "locks"
        lock = FileLock(locks / f"{kind}-{key}.lock")
        with as_store_errors(self.root):
            locks.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                _log.info("another process builds %s/%s; waiting for it", kind, key)
                lock.acquire()
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                # Two may build the same then, and the one that is done first is used.
                _log.warning("%s cannot be locked: %s", self.root, error.strerror)
        try:
            yield
        finally:
            lock.release()

    def remove_abandoned(self) -> None:
        """Remove what builds have left that were killed a day ago or longer."""
        for folder in (self.root / "tmp").glob("*"):
            with suppress(FileNotFoundError):  # another process finishes its build meanwhile
                if time.time() - folder.stat().st_mtime > _ABANDONED_SECONDS:
                    shutil.rmtree(folder, ignore_errors=True)


def default_root() -> Path:
    """`$DEEPCACHE_TRT_STORE`, or the user's cache folder."""
    from platformdirs import user_cache_path

    return Path(os.environ.get("DEEPCACHE_TRT_STORE") or user_cache_path("deepcache-trt"))
