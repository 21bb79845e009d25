"""Runs on the bundled model: what is drawn, taken up again, measured and written."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepcache_trt.benchmarks.experiments import drawing
from deepcache_trt.benchmarks.experiments.config import Config
from deepcache_trt.benchmarks.experiments.measure import Results
from deepcache_trt.benchmarks.experiments.run import run
from deepcache_trt.errors import DeepCacheError
from deepcache_trt.progress import logged

CONFIG = Config(
    experiment="interval-evolution",
    prompts=("a handwritten two", "a handwritten four", "a handwritten nine"),
    seeds=2,
    steps=4,
    batch=4,
    intervals=(1, 2, 4),
    backend="onnxruntime",
)


def done(config: Config, out: Path, store: Path, **options: Any) -> Results:
    given: dict[str, Any] = {"limit": None, "command": "a command", "progress": logged, "tell": lambda line: None}
    return run(config, out, store=store, **(given | options))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, store_root: Path) -> tuple[Path, Results]:
    """An undisturbed run."""
    out = tmp_path_factory.mktemp("experiments") / "whole"
    return out, done(CONFIG, out, store_root)


def files(folder: Path) -> dict[str, bytes]:
    """What must not depend on how often a run was stopped."""
    kept = [*folder.glob("images/*/*.png"), folder / "samples.jsonl", folder / "config.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


@contextmanager
def stopped_after(batches: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Whoever draws is stopped before batch number `batches`; gives a list with an entry for each that was drawn."""
    real, drawn = drawing._draw, list[int]()

    def draw(*args: Any) -> Any:
        if len(drawn) == batches:
            raise KeyboardInterrupt
        drawn.append(1)
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(drawing, "_draw", draw)
        yield drawn


def test_every_picture_has_a_line_with_its_figures(whole: tuple[Path, Results]) -> None:
    out, results = whole
    lines = [json.loads(line) for line in (out / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["cell"], line["index"]) for line in lines] == [
        (cell.name, index) for cell in results.cells for index in range(6)
    ]
    for line in lines:
        assert line["prompt"] == CONFIG.prompts[line["index"] // 2]
        assert line["seed"] == line["index"]

    def pixels(cell: str, index: int) -> np.ndarray:
        with Image.open(out / "images" / cell / f"{index:06}.png") as image:
            return np.asarray(image, dtype=np.float64)

    own = next(line for line in lines if (line["cell"], line["index"]) == ("interval 4", 3))
    mse = np.mean((pixels("interval-4", 3) - pixels("uncached", 3)) ** 2)
    assert own["psnr_db"] == pytest.approx(10 * np.log10(255**2 / mse), rel=1e-4)
    assert own["psnr_db"] < next(line["psnr_db"] for line in lines if line["cell"] == "interval 2")
    same = [line["psnr_db"] for line in lines if line["cell"] == "interval 1"]
    assert same == [None] * 6, "an interval of 1 caches nothing, so that nothing differs"


def test_the_table_and_the_plot_show_cost_and_error(whole: tuple[Path, Results]) -> None:
    out, results = whole
    text = (out / "table.md").read_text(encoding="utf-8")
    assert text.startswith("# interval-evolution\n")
    assert "Written by `a command`." in text
    assert "| interval 1 | 100.0% |" in text
    assert results.macs["interval 4"] < results.macs["interval 2"] < results.macs["uncached"]
    assert all(len(each) == 2 for each in results.seconds.values()), "two batches of each"
    with Image.open(out / "plot.png") as plot:
        assert min(plot.size) > 500
    assert (out / "plot.svg").read_text(encoding="utf-8").rstrip().endswith("</svg>")


@pytest.mark.parametrize("batches", [0, 3, 7])
def test_a_run_that_was_stopped_draws_the_rest_and_is_the_same(
    batches: int, whole: tuple[Path, Results], tmp_path: Path, store_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stopped_after(batches, monkeypatch), pytest.raises(KeyboardInterrupt):
        done(CONFIG, tmp_path / "out", store_root)
    said: list[str] = []
    done(CONFIG, tmp_path / "out", store_root, tell=said.append)
    assert files(tmp_path / "out") == files(whole[0])
    there = len(list((whole[0] / "images").glob("*/*.png")))
    assert (said == []) == (batches == 0)
    assert all("of " + str(there) in line for line in said)


def test_what_is_there_is_not_drawn_again(
    whole: tuple[Path, Results], store_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(whole[0])
    with stopped_after(0, monkeypatch):
        done(CONFIG, whole[0], store_root)
    assert files(whole[0]) == before


def test_a_limit_is_a_beginning_and_the_rest_can_follow(
    whole: tuple[Path, Results], tmp_path: Path, store_root: Path
) -> None:
    results = done(CONFIG, tmp_path / "out", store_root, limit=4)
    assert len(results.samples) == 4
    assert {len(list(cell.glob("*.png"))) for cell in (tmp_path / "out" / "images").iterdir()} == {4}
    done(CONFIG, tmp_path / "out", store_root)
    assert files(tmp_path / "out") == files(whole[0])


def test_a_folder_of_another_config_is_refused_and_left_alone(whole: tuple[Path, Results], store_root: Path) -> None:
    before = files(whole[0])
    with pytest.raises(DeepCacheError, match=r"is of a run with steps 4, and this one has 5; give the same, or choose"):
        done(replace(CONFIG, steps=5), whole[0], store_root)
    assert files(whole[0]) == before


def test_pictures_of_one_prompt_are_compared_with_each_other(tmp_path: Path, store_root: Path) -> None:
    config = replace(CONFIG, experiment="diversity", prompts=CONFIG.prompts[:2], seeds=3, intervals=(3,))
    results = done(config, tmp_path, store_root)
    for cell in results.cells:
        apart = results.figures[cell.name]["mse_apart"]
        one, other = (results.image(cell, index).astype(np.float64) / 255 for index in (3, 5))
        assert len(apart) == 3 + 3
        assert apart[4] == pytest.approx(np.mean((one - other) ** 2), rel=1e-4), "pictures 3 and 5: the second pair"


def test_a_branch_that_the_model_lacks_is_told_before_anything_is_drawn(tmp_path: Path, store_root: Path) -> None:
    with pytest.raises(DeepCacheError, match="12"):
        done(replace(CONFIG, experiment="branches", branches=(12,)), tmp_path / "out", store_root)
    assert not (tmp_path / "out").exists()
