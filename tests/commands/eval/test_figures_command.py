"""`deepcache-trt eval figures`: five figures of two sets of images, and what has none."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from deepcache_trt.benchmarks.fidelity.digit_reader import DigitReader, frechet_distance, real_digits
from deepcache_trt.benchmarks.fidelity.extractors import extractor_called
from tests.commands.command_line import Run


def pictures(images: np.ndarray) -> np.ndarray:
    """[N, 8, 8, 3] uint8, dark on white, of digits (N, 8, 8) in 0…16."""
    return np.repeat((255 * (1 - images / 16)).round().astype(np.uint8)[..., None], 3, axis=3)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    train, test = real_digits()
    np.savez(root / "test.npz", arr_0=pictures(test.images[:100]))
    np.savez(root / "train.npz", arr_0=pictures(train.images[:150]))
    np.savez(root / "noise.npz", arr_0=np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), np.uint8))
    np.savez(root / "few.npz", arr_0=pictures(test.images[:3]))
    np.savez(root / "none.npz", arr_0=np.zeros((0, 8, 8, 3), np.uint8))
    return root


def figures(run: Run, sets: Path, one: str, other: str) -> dict[str, Any]:
    result = run("eval", "figures", sets / f"{one}.npz", sets / f"{other}.npz", "--extractor", "digits", "--json")
    assert result.code == 0
    record: dict[str, Any] = json.loads(result.out)
    return record


def test_the_figures_are_those_of_what_is_read(run: Run, sets: Path) -> None:
    record = figures(run, sets, "test", "train")
    reader, (train, test) = DigitReader(), real_digits()
    expected = frechet_distance(reader.margins(test.images[:100]), reader.margins(train.images[:150]))
    assert record["fid"] == pytest.approx(expected, rel=0.02)  # 8 bits hold no sixteenths
    assert record["images"] == [100, 150]
    read = extractor_called("digits").loaded()(pictures(test.images[:100]))
    won = np.rint(45 * read.probabilities).astype(int)  # how often an image goes with a class
    assert record["inception_score"] == pytest.approx(np.exp(mutual_info_score(None, None, contingency=won)))
    assert 0 < record["precision"] <= 1


def test_a_set_beside_itself_is_perfect_and_noise_is_not(run: Run, sets: Path) -> None:
    same, noise = figures(run, sets, "test", "test"), figures(run, sets, "noise", "test")
    assert (same["fid"], same["sfid"]) == pytest.approx((0, 0), abs=1e-6)
    assert (same["precision"], same["recall"]) == (1, 1)
    assert noise["sfid"] > 100
    assert noise["recall"] < 0.1
    assert noise["inception_score"] < same["inception_score"]


def test_a_person_is_told_of_what(run: Run, sets: Path) -> None:
    command = ["eval", "figures", sets / "test.npz", sets / "train.npz", "--extractor", "digits", "--images", 40]
    lines = run(*command).out.splitlines()
    names = [line.rpartition(" ")[0].strip() for line in lines[:5]]
    assert names == ["inception score", "fid", "sfid", "precision", "recall"]
    assert lines[5:] == [
        "· of 40 images beside 40",
        "· features: margins of the digit reader, 45; the 64 areas; of each digit the share of all duels that it wins; "
        "resized to 8×8, means of areas",
    ]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("few", "3 images have no 3 neighbours each; give more images"),
        ("none", "none.npz has no images; give a folder or a .npz that has"),
        ("statistics", "holds the statistics of images, from which FID alone can be had; give the images, or eval fid"),
        ("absent", "absent.npz is no folder of images and no .npz with images as arr_0; give one of these"),
    ],
)
def test_what_has_no_figures_is_named_with_the_cure(run: Run, sets: Path, other: str, message: str) -> None:
    np.savez(sets / "statistics.npz", mu=np.zeros(3), sigma=np.eye(3))
    result = run("eval", "figures", sets / "test.npz", sets / f"{other}.npz", "--extractor", "digits")
    assert (result.code, result.out) == (2, "")
    *before, last = result.err.splitlines()
    assert last.startswith("error: ")
    assert message in last
    assert (before == []) == (other in ("statistics", "absent")), "nothing is read for what has no images at all"
