"""`deepcache-trt eval fid`: the distance it prints, the statistics it keeps, and what it refuses."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepcache_trt.benchmarks.fidelity import digit_reader
from deepcache_trt.benchmarks.fidelity.digit_reader import DigitReader, frechet_distance, real_digits
from tests.commands.command_line import Run, assert_one_line


def pictures(images: np.ndarray) -> np.ndarray:
    """[N, 16, 16, 3] uint8, dark on white, of digits (N, 8, 8) in 0…16."""
    grey = (255 * (1 - images / 16)).round().astype(np.uint8)
    return np.repeat(grey.repeat(2, axis=1).repeat(2, axis=2)[..., None], 3, axis=3)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder and a .npz of real digits, other ones in each."""
    root = tmp_path_factory.mktemp("sets")
    train, test = real_digits()
    (root / "test").mkdir()
    for i, image in enumerate(pictures(test.images[:120])):
        Image.fromarray(image).save(root / "test" / f"{i:03}.png")
    np.savez(root / "train.npz", arr_0=pictures(train.images[:200]), arr_1=train.labels[:200])
    return root


def test_the_distance_is_that_of_the_features(run: Run, sets: Path, tmp_path: Path) -> None:
    common = ["eval", "fid", sets / "test", sets / "train.npz", "--extractor", "digits", "--store", tmp_path]
    result = run(*common, "--batch", 32, "--json")
    assert result.code == 0
    record = json.loads(result.out)
    reader, (train, test) = DigitReader(), real_digits()
    expected = frechet_distance(reader.margins(test.images[:120]), reader.margins(train.images[:200]))
    assert record["distance"] == pytest.approx(expected, rel=0.02)  # 8 bits hold no sixteenths
    assert (record["images"], record["extractor"]) == ([120, 200], "margins of the digit reader, 45")
    words = run(*common).out.splitlines()
    assert words == [
        f"Fréchet distance {record['distance']:.4f}",
        "· of 120 images from 200",
        "· features: margins of the digit reader, 45; resized to 8×8, means of areas",
    ]
    assert run("eval", "fid", sets / "test", sets / "test", *common[4:]).out.startswith("Fréchet distance 0.0000\n")
    fewer = json.loads(run(*common, "--images", 50, "--json").out)
    assert fewer["images"] == [50, 50]
    assert fewer["distance"] > record["distance"]


def test_statistics_stand_for_their_images(run: Run, sets: Path, tmp_path: Path) -> None:
    common, saved = ["--extractor", "digits", "--store", tmp_path], tmp_path / "train-stats.npz"
    result = run("eval", "fid", sets / "train.npz", "--save-stats", saved, *common)
    assert (result.code, result.out) == (0, f"{saved}\n")
    by_images = run("eval", "fid", sets / "test", sets / "train.npz", *common).out
    assert run("eval", "fid", sets / "test", saved, *common).out == by_images


def test_features_are_made_once_until_a_file_changes(
    run: Run, sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    margins = DigitReader.margins

    def counted(reader: DigitReader, images: np.ndarray) -> np.ndarray:
        made.append(len(images))
        return margins(reader, images)

    monkeypatch.setattr(digit_reader.DigitReader, "margins", counted)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for path in sorted((sets / "test").iterdir())[:20]:
        (folder / path.name).write_bytes(path.read_bytes())
    command = ["eval", "fid", folder, folder, "--extractor", "digits", "--store", tmp_path / "store"]
    assert run(*command).code == run(*command).code == 0
    assert made == [20]
    (folder / "000.png").unlink()
    assert "· of 19 images from 19" in run(*command).out
    assert made == [20, 19]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("test", "there is nothing to compare {root}/test with; give B, or --save-stats FILE"),
        ("test none", "{root}/none is no folder of images, no .npz with images as arr_0, and no statistics; give one"),
        ("test foreign.npz", "foreign.npz does not say its count, extractor, resize, without which a distance"),
        ("test inception.npz", "holds statistics of 'another network', '299', and --extractor digits means 'margins"),
        ("test one", "{root}/one has 1 of the 2 images that a covariance wants at least; give more"),
        ("test mixed", "1.png has 16×24 pixels, and those before it 16×16; give images of one size"),
        ("test odd", "images of 9×9 pixels have no 8×8 areas"),
        ("test floats.npz", "arr_0 of {root}/floats.npz is [2, 16, 16, 3] float64; give images as [N, H, W, 3] uint8"),
        ("test torn", "cannot read {root}/torn/0.png: "),
        ("test test --extractor inceptoin", "unknown extractor 'inceptoin' (did you mean 'inception'?)"),
    ],
)
def test_what_cannot_be_compared_is_named_with_the_cure(run: Run, sets: Path, arguments: str, message: str) -> None:
    contents = {"one": [(16, 16)], "mixed": [(16, 16), (16, 24)], "odd": [(9, 9), (9, 9)], "torn": [(16, 16)]}
    for name, sizes in contents.items():
        (sets / name).mkdir(exist_ok=True)
        for i, size in enumerate(sizes):
            Image.fromarray(np.zeros([*size, 3], np.uint8)).save(sets / name / f"{i}.png")
    (sets / "torn" / "0.png").write_bytes((sets / "one" / "0.png").read_bytes()[:40])
    mean, covariance = np.zeros(3), np.eye(3)
    np.savez(sets / "foreign.npz", mu=mean, sigma=covariance)
    np.savez(sets / "inception.npz", mu=mean, sigma=covariance, count=9, extractor="another network", resize="299")
    np.savez(sets / "floats.npz", arr_0=np.zeros([2, 16, 16, 3]))
    paths = [word if word.startswith("--") or word == "inceptoin" else sets / word for word in arguments.split()]
    extractor = [] if "--extractor" in arguments else ["--extractor", "digits"]
    result = run("eval", "fid", *paths, *extractor)
    assert result.code == 2
    assert result.out == ""
    assert message.format(root=sets) in result.err.splitlines()[-1]


def test_without_torch_fidelity_it_says_what_to_install_and_where_weights_go(
    run: Run, sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    result = run("eval", "fid", sets / "test", sets / "test")
    assert result.code == 2
    last = result.err.splitlines()[-1]
    assert "the extractor 'inception' cannot be had: " in last
    assert "pip install 'deepcache-trt[eval]', and let it download Inception's weights once, or put " in last
    assert "weights-inception-2015-12-05-6726825d.pth into $TORCH_HOME/hub/checkpoints" in last


def test_eval_by_itself_takes_no_options_before_fid(run: Run) -> None:
    result = run("eval", "--interval", 3, "fid", "a", "b")
    assert_one_line(result)
    assert "--interval before 'fid' is of `deepcache-trt eval` alone; leave it out" in result.err
