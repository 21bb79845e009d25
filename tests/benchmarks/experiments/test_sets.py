"""Sets of images beside real ones: the figures are those of the functions for arrays, of the images that were saved."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepcache_trt.benchmarks.experiments.comparison.cells import UNCACHED, Cell, cached
from deepcache_trt.benchmarks.experiments.declared import experiments
from deepcache_trt.benchmarks.experiments.published import bk_sdm, published, published_gmacs
from deepcache_trt.benchmarks.experiments.run import run
from deepcache_trt.benchmarks.fidelity.digit_reader import DigitReader, real_digits, to_eight
from deepcache_trt.benchmarks.fidelity.figures import frechet, normal_of, precision_and_recall
from deepcache_trt.progress import logged
from deepcache_trt.runtime.policies import DeepCache, Router

IMAGES = 12


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory, store_root: Path) -> Path:
    out, experiment = tmp_path_factory.mktemp("sets") / "out", experiments()["ddpm"]
    options = experiment.options(images=IMAGES, batch=IMAGES, steps=4, interval=(2,))
    given: dict[str, Any] = {"store": store_root, "command": "", "progress": logged, "tell": lambda line: None}
    run(experiment, options, out, **given)
    return out


def lines(out: Path) -> dict[str, dict[str, str]]:
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return {line[0]: dict(zip(report["header"], line, strict=True)) for line in report["lines"]}


def test_figures_are_of_the_saved_images_and_the_real_digits(drawn: Path) -> None:
    reader, (_, real) = DigitReader(), real_digits()
    for name, folder in (("uncached", "uncached"), ("interval 2, branch 2", "interval-2-branch-2")):
        files = sorted((drawn / "images" / folder).glob("*.png"))
        images = np.stack([np.asarray(Image.open(file)) for file in files]).transpose(0, 3, 1, 2) / 255
        own, other = reader.margins(to_eight(images)), reader.margins(real.images)
        assert len(files) == IMAGES
        found = lines(drawn)[name]
        assert float(found["Fréchet"]) == pytest.approx(frechet(normal_of(own), normal_of(other)), abs=6e-4)
        precision, recall = precision_and_recall(own, other)
        assert (found["precision"], found["recall"]) == (f"{precision:.3f}", f"{recall:.3f}")


def test_images_and_statistics_can_be_what_they_are_compared_with(
    drawn: Path, tmp_path: Path, store_root: Path
) -> None:
    """Those of the first cell, from which its own have no distance."""
    experiment, given = experiments()["ddpm"], {"images": IMAGES, "batch": IMAGES, "steps": 4, "interval": (2,)}
    options = experiment.options(**given, reference=drawn / "images" / "uncached")
    rest: dict[str, Any] = {"store": store_root, "command": "", "progress": logged, "tell": lambda line: None}
    run(experiment, options, tmp_path / "out", **rest)
    found = lines(tmp_path / "out")
    assert float(found["uncached"]["Fréchet"]) == pytest.approx(0, abs=1e-3)
    assert found["uncached"]["precision"] == found["uncached"]["recall"] == "1.000"
    assert float(found["interval 2, branch 2"]["Fréchet"]) > 0


@pytest.mark.parametrize(
    ("model", "steps", "cell", "fid", "speedup"),
    [
        ("ddpm-cifar10", 100, cached(5, 2), 5.73, 1.85),
        ("somewhere/ddpm-cifar10", 100, UNCACHED, 4.16, 1.0),
        ("ddpm-cifar10", 100, cached(5, 11), 4.48, None),
        ("ldm-4-g", 250, cached(20, 0), 8.23, 10.54),
        ("dit-xl-2-256", 20, Cell(name="router", policy=Router(masks=("01",))), 3.46, 1.27),
    ],
)
def test_what_was_published_stands_beside_the_same_thing(
    model: str, steps: int, cell: Cell, fid: float, speedup: float | None
) -> None:
    found = published(model, steps, cell)
    assert found is not None
    assert (found.fid, found.speedup) == (fid, speedup)


@pytest.mark.parametrize(
    ("model", "steps", "cell"),
    [
        ("digits-ddpm", 100, cached(5, 2)),
        ("ddpm-cifar10", 50, cached(5, 2)),
        ("ddpm-cifar10", 100, cached(4, 2)),
        ("ldm-4-g", 250, Cell(name="quad", policy=DeepCache(cache_interval=10, skip_mode="quad"))),
    ],
)
def test_nothing_published_stands_beside_another(model: str, steps: int, cell: Cell) -> None:
    assert published(model, steps, cell) is None


def test_distilled_models_have_their_published_scores() -> None:
    assert bk_sdm("sd15", 50)["bk-sdm-tiny"].clip == 27.36
    assert not bk_sdm("digits", 50)
    assert published_gmacs("sd15") == 338.83
