"""Scores without a reference of the same seed, with random weights where the real ones would be looked for."""

import sys
from pathlib import Path

import numpy as np
import pytest

from deepcache_trt.benchmarks.fidelity.distances import available
from deepcache_trt.benchmarks.fidelity.extractors import extractor_called
from deepcache_trt.benchmarks.fidelity.scores import ClipScore, as_image, folder_rule, folder_scores, images_in


def pictures(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 3, 32, 32), dtype=np.float32)


def saved(folder: Path, found: np.ndarray) -> Path:
    folder.mkdir()
    for i, picture in enumerate(found):
        as_image(picture).save(folder / f"{i}.png")
    return folder


def test_a_picture_is_rounded_to_eight_bits() -> None:
    image = as_image(np.array([[[0.0, 1.0]], [[0.499, 1.2]], [[0.5, -1]]], dtype=np.float32))
    assert [image.getpixel((x, 0)) for x in range(2)] == [(0, 127, 128), (255, 255, 0)]


def test_the_images_of_a_folder_are_its_png_and_jpeg_files(tmp_path: Path) -> None:
    folder = saved(tmp_path / "own", pictures(2, seed=0))
    (folder / "notes.txt").touch()
    assert [path.name for path in images_in(folder)] == ["0.png", "1.png"]


def test_a_score_that_lacks_its_package_is_absent_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    loaded, absent = available(
        {"clip_score": ClipScore, "fid, kid, inception_score": lambda: folder_scores(Path(), Path())}
    )
    assert not loaded
    assert "5 GB of ViT-g-14 laion2b_s34b_b88k" in absent["clip_score"]
    assert "weights-inception-2015-12-05-6726825d.pth into $TORCH_HOME" in absent["fid, kid, inception_score"]


@pytest.mark.slow
def test_a_clip_score_is_the_mean_cosine_in_percent_and_never_negative() -> None:
    pytest.importorskip("open_clip")
    score = ClipScore("ViT-S-32-alt", None)
    one, two = (score(pictures(1, seed), [f"picture {seed}"]) for seed in (0, 1))
    both = score(np.concatenate([pictures(1, 0), pictures(1, 1)]), ["picture 0", "picture 1"])
    assert both == pytest.approx((one + two) / 2, abs=1e-3)
    assert 0 <= both <= 100


def drawn_inception(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch-fidelity's Inception gets whatever weights its layers start from, where the real ones cannot be had."""
    torch_fidelity = pytest.importorskip("torch_fidelity")
    import torch

    hub = folder / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    inception = torch_fidelity.feature_extractor_inceptionv3.FeatureExtractorInceptionV3
    monkeypatch.setattr(inception, "load_state_dict", lambda self, state: None)
    torch.save({}, hub / "weights-inception-2015-12-05-6726825d.pth")
    monkeypatch.setenv("TORCH_HOME", str(folder))
    torch.manual_seed(0)


@pytest.mark.slow
def test_inception_gives_the_three_layers_of_the_evaluator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn_inception(tmp_path, monkeypatch)
    read = extractor_called("inception").loaded()
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    both, alone = read(images), read(images[1:2])
    assert (both.pooled.shape, both.spatial.shape) == ((3, 2048), (3, 7 * 17 * 17))
    np.testing.assert_allclose(both.probabilities.sum(axis=1), 1, rtol=1e-5)
    for name in ("pooled", "spatial", "probabilities"):
        np.testing.assert_allclose(getattr(both, name)[1:2], getattr(alone, name), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:torch.utils.data")
def test_a_folder_against_itself_has_no_distance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn_inception(tmp_path, monkeypatch)
    import torch

    own, other = saved(tmp_path / "own", pictures(8, 0)), saved(tmp_path / "other", pictures(8, 1) ** 3)
    torch.manual_seed(0)
    same = folder_scores(own, own)
    torch.manual_seed(0)
    different = folder_scores(own, other)
    assert same["fid"] == pytest.approx(0, abs=1e-2)
    assert different["fid"] > same["fid"]
    assert same["inception_score"] >= 1 - 1e-9
    assert "299×299" in folder_rule()
