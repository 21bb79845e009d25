"""A folder of samples: what a run leaves that was killed at each moment, and what the next makes of it."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deepcache_trt.benchmarks.sampling.place import Place, image_name
from deepcache_trt.benchmarks.sampling.run import sample
from deepcache_trt.errors import DeepCacheError
from deepcache_trt.progress import logged

SETTINGS = {"seed": 0, "classes": (1, 2)}


def image(index: int) -> Any:
    return Image.new("RGB", (4, 4), (index, 0, 0))


class Draws:
    """Remembers what it was asked for, and fails at one call."""

    def __init__(self, *, fails_at: int = -1) -> None:
        self.calls: list[list[int]] = []
        self._fails_at = fails_at

    def draw(self, indices: Any) -> list[Any]:
        self.calls.append(list(indices))
        if len(self.calls) == self._fails_at:
            raise KeyboardInterrupt
        return [image(index) for index in indices]


def run(out: Path, draws: Draws, indices: range = range(10), *, batch: int = 4) -> int:
    return sample(out, SETTINGS, indices, batch=batch, labels=[], load=lambda: draws, progress=logged)


def listed(folder: Path) -> list[str]:
    """As others list it, folders too."""
    return sorted(path.name for path in folder.glob("*.png"))


def test_batches_begin_at_multiples_of_their_size_and_are_drawn_whole(tmp_path: Path) -> None:
    draws = Draws()
    run(tmp_path, draws, range(3, 10))
    assert draws.calls == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert listed(tmp_path) == [image_name(index) for index in range(3, 10)]
    run(tmp_path, again := Draws(), range(2, 10))
    assert again.calls == [[0, 1, 2, 3]]


def test_a_batch_is_no_larger_than_what_is_wanted(tmp_path: Path) -> None:
    run(tmp_path, draws := Draws(), range(5, 6), batch=64)
    assert draws.calls == [[5]]


def test_an_interrupted_run_goes_on_with_the_batch_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Draws(fails_at=2))
    assert run(tmp_path, draws := Draws()) == 4
    assert draws.calls == [[4, 5, 6, 7], [8, 9, 10, 11]]
    assert run(tmp_path, draws := Draws()) == 10
    assert draws.calls == []


def test_a_batch_that_was_being_written_is_drawn_again(tmp_path: Path) -> None:
    half = tmp_path / ".drawing-0"
    half.mkdir()
    image(0).save(half / "000000.png")
    run(tmp_path, draws := Draws(), range(4))
    assert draws.calls == [[0, 1, 2, 3]]
    assert not half.exists()


def test_a_batch_that_was_on_its_way_to_its_names_arrives(tmp_path: Path) -> None:
    way = tmp_path / ".drawn-0"
    way.mkdir()
    for index in (1, 2, 3):  # 0 has arrived
        image(index).save(way / image_name(index))
    image(0).save(tmp_path / image_name(0))
    (tmp_path / "sample.json").write_text('{"seed": 0, "classes": [1, 2]}')
    assert run(tmp_path, draws := Draws(), range(4)) == 4
    assert draws.calls == []
    assert not way.exists()
    with Image.open(tmp_path / image_name(3)) as arrived:
        assert arrived.getpixel((0, 0)) == (3, 0, 0)


def test_the_record_is_there_before_the_first_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path, SETTINGS)

    def saved(self: Any, path: Path) -> None:
        assert (tmp_path / "sample.json").exists()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", saved)
    with place.opened(), pytest.raises(DeepCacheError, match="No space left on device; choose another --out"):
        place.write({0: image(0)})
    assert listed(tmp_path) == []


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(DeepCacheError, match=r"cannot write .*file: .*; choose another --out"),
        Place(tmp_path / "file", {}).opened(),
    ):
        pass


def test_a_file_of_someone_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.npz").touch()
    with pytest.raises(DeepCacheError, match=r"mine\.npz is there already, and no mine\.npz\.json beside it"):
        run(tmp_path / "mine.npz", Draws())
