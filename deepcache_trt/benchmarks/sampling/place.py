"""Where samples go: a folder of PNGs named by their index, which a run that was killed at any moment goes on filling.

A batch is written into a folder of its own, which is renamed when it is whole; only then its images move to their
names. So a batch is there as a whole or not at all, and every image under its name is whole. Beside the images lies a
record of the settings, so that those of two settings cannot be mixed.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from deepcache_trt.benchmarks.report import write_json
from deepcache_trt.documents import read_json
from deepcache_trt.errors import DeepCacheError

RECORD = "sample.json"
_DRAWING, _DRAWN, _LOCK = ".drawing-", ".drawn-", ".lock"
_DIGITS = 6  # of a name; larger numbers have more

# The last chunk of every PNG: its length, name and checksum.
_END = b"\0\0\0\0IEND\xaeB`\x82"


def image_name(index: int) -> str:
    """As "000123.png"."""
    return f"{index:0{_DIGITS}}.png"


class Place:
    """A folder of images."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Take a folder, which `opened` makes.

        Args:
            folder: which one.
            settings: what the images depend on, as JSON has it; kept with the first batch.
        """
        self.folder = folder
        self._settings = settings

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Hold the folder for one run, and end what a killed one began.

        Raises:
            DeepCacheError: the folder holds images of other settings, another run draws into it, or it cannot be
                written.
        """
        with written(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / _LOCK, blocking=False)
            try:
                lock.acquire()
            except Timeout as error:
                raise DeepCacheError(
                    f"another run draws into {self.folder}; wait for it, or choose another --out"
                ) from error
        try:
            with written(self.folder):
                self._agree()
                self._recover()
            yield
        finally:
            lock.release()

    def missing(self, indices: Sequence[int]) -> list[int]:
        """Those of the indices whose image is not there, or not whole."""
        return [index for index in indices if not _is_whole(self.folder / image_name(index))]

    def write(self, images: Mapping[int, Any]) -> None:
        """Keep the images of a batch, all or none.

        Args:
            images: of PIL, by their index.
        """
        name = f"{min(images)}"  # no name of an image, which whoever lists those would take it for
        drawing, drawn = self.folder / f"{_DRAWING}{name}", self.folder / f"{_DRAWN}{name}"
        with written(self.folder):
            write_json(self.folder / RECORD, dict(self._settings))
            drawing.mkdir()
            for index, image in images.items():
                image.save(drawing / image_name(index))
            drawing.rename(drawn)
            _move_out(drawn)

    def _agree(self) -> None:
        record = self.folder / RECORD
        if record.exists():
            check_settings(record, self._settings)
        elif any(self.folder.glob("*.png")):
            raise DeepCacheError(
                f"{self.folder} holds PNGs and no {RECORD} that says how they were drawn; choose another --out"
            )

    def _recover(self) -> None:
        for unfinished in self.folder.glob(f"{_DRAWING}*"):
            shutil.rmtree(unfinished)
        for drawn in self.folder.glob(f"{_DRAWN}*"):
            _move_out(drawn)


def check_settings(record: Path, settings: Mapping[str, Any]) -> None:
    """Raise DeepCacheError where a record says other settings, naming the first that differs."""
    try:
        before = read_json(record)
        if not isinstance(before, dict):
            raise ValueError(f"it holds a {type(before).__name__}")
    except (OSError, ValueError) as error:
        raise DeepCacheError(f"{record} is no record of a run ({error}); choose another --out") from error
    wanted = json.loads(json.dumps(dict(settings)))
    for name in sorted({*before, *wanted}):
        if before.get(name) != wanted.get(name):
            was, now = (json.dumps(each.get(name)) for each in (before, wanted))
            raise DeepCacheError(
                f"{record.parent if record.name == RECORD else record} is of a run with {name} {was}, and this one has "
                f"{now}; give the same, or choose another --out"
            )


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Say in one line that a file or folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise DeepCacheError(f"cannot write {path}: {error.strerror or error}; choose another --out") from error


def _move_out(drawn: Path) -> None:
    for image in drawn.iterdir():
        image.replace(drawn.parent / image.name)
    drawn.rmdir()


def _is_whole(path: Path) -> bool:
    """Whether a PNG is there with its end, which a machine that lost power may have kept back."""
    try:
        with path.open("rb") as file:
            file.seek(-len(_END), 2)
            return file.read() == _END
    except OSError:  # none, or shorter than an end
        return False
