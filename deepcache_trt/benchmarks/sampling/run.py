"""Filling a place with samples, batch by batch, whatever is there already."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from deepcache_trt.benchmarks.sampling.pack import is_packed, pack, parts_of
from deepcache_trt.benchmarks.sampling.place import Place
from deepcache_trt.progress import Progress


class Draws(Protocol):
    """What draws images."""

    def draw(self, indices: Sequence[int]) -> list[Any]:
        """The images of PIL with these indices, in one batch."""
        ...


def sample(
    out: Path,
    settings: Mapping[str, Any],
    indices: range,
    *,
    batch: int,
    labels: Sequence[int],
    load: Callable[[], Draws],
    progress: Progress,
) -> int:
    """Have all of the images at a place, and return how many of them were there before.

    A batch is of the indices from one multiple of its size to the next, and drawn whole: what is left of a batch that
    is drawn again is then the same to the last bit, and engines meet one shape only.

    Args:
        out: a folder of PNGs, or a .npz.
        settings: what the images depend on, see `Place`.
        indices: of the images.
        batch: images that are drawn together.
        labels: the class of each image of a .npz; none: there are no classes.
        load: what draws; not called where nothing is left to draw.
        progress: how far it is.

    Raises:
        DeepCacheError: as `Place.opened` and what draws.
    """
    if out.suffix.lower() != ".npz":
        place = Place(out, settings)
        with place.opened():
            return _fill(place, indices, batch, load, progress)
    settings = {**settings, "first": indices.start, "images": len(indices)}
    if is_packed(out, settings):
        shutil.rmtree(parts_of(out), ignore_errors=True)  # of a run that was killed after its last image
        return len(indices)
    place = Place(parts_of(out), settings)
    with place.opened():
        there = _fill(place, indices, batch, load, progress)
        pack(place.folder, indices, labels, settings, out)
        shutil.rmtree(place.folder)
    return there


def _fill(place: Place, indices: range, batch: int, load: Callable[[], Draws], progress: Progress) -> int:
    missing = sorted(place.missing(indices))
    there = len(indices) - len(missing)
    if not missing:
        return there
    drawer = load()
    batch = min(batch, len(indices))
    with progress(f"drawing {len(missing):,} images") as report:
        done = 0
        while done < len(missing):
            start = missing[done] // batch * batch
            wanted = [index for index in missing[done : done + batch] if index < start + batch]
            images = drawer.draw(range(start, start + batch))
            place.write({index: images[index - start] for index in wanted})
            done += len(wanted)
            report(done=done, total=len(missing), detail=f"{there + done:,} of {len(indices):,}")
    return there
