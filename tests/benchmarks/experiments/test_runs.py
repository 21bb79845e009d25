"""Runs on the bundled model: what is drawn, taken up again, measured and written."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepcache_trt.benchmarks.experiments.comparison import prompted
from deepcache_trt.benchmarks.experiments.declared import experiments
from deepcache_trt.benchmarks.experiments.report import Report
from deepcache_trt.benchmarks.experiments.run import run
from deepcache_trt.errors import DeepCacheError
from deepcache_trt.progress import logged

NAME = "interval-evolution"
GIVEN: dict[str, Any] = {
    "prompt": ("a handwritten two", "a handwritten four", "a handwritten nine"),
    "seeds": 2,
    "steps": 4,
    "batch": 4,
    "interval": (1, 2, 4),
    "backend": "onnxruntime",
}


def done(
    out: Path, store: Path, name: str = NAME, *, limit: int | None = None, tell: Any = None, **given: Any
) -> Report:
    experiment, ignore = experiments()[name], lambda line: None
    options = experiment.options(**{**GIVEN, **given})
    return run(
        experiment, options, out, store=store, limit=limit, command="a command", progress=logged, tell=tell or ignore
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, store_root: Path) -> tuple[Path, Report]:
    """An undisturbed run."""
    out = tmp_path_factory.mktemp("experiments") / "whole"
    return out, done(out, store_root)


def files(folder: Path) -> dict[str, bytes]:
    """What must not depend on how often a run was stopped."""
    kept = [*folder.glob("images/*/*.png"), folder / "samples.jsonl", folder / "config.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


@contextmanager
def stopped_after(batches: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Whoever draws is stopped before batch number `batches`; gives a list with an entry for each that was drawn."""
    real, drawn = prompted.FromPrompts.draw, list[int]()

    def draw(*args: Any) -> Any:
        if len(drawn) == batches:
            raise KeyboardInterrupt
        drawn.append(1)
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(prompted.FromPrompts, "draw", draw)
        yield drawn


def test_every_picture_has_a_line_with_its_figures(whole: tuple[Path, Report]) -> None:
    out, report = whole
    lines = [json.loads(line) for line in (out / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["cell"], line["index"]) for line in lines] == [
        (line[0], index) for line in report.lines for index in range(6)
    ]
    for line in lines:
        assert line["prompt"] == GIVEN["prompt"][line["index"] // 2]
        assert line["seed"] == line["index"]

    def pixels(cell: str, index: int) -> np.ndarray:
        with Image.open(out / "images" / cell / f"{index:06}.png") as image:
            return np.asarray(image, dtype=np.float64)

    own = next(line for line in lines if (line["cell"], line["index"]) == ("interval 4, branch 0", 3))
    mse = np.mean((pixels("interval-4-branch-0", 3) - pixels("uncached", 3)) ** 2)
    assert own["psnr_db"] == pytest.approx(10 * np.log10(255**2 / mse), rel=1e-4)
    assert own["psnr_db"] < next(line["psnr_db"] for line in lines if line["cell"] == "interval 2, branch 0")
    same = [line["psnr_db"] for line in lines if line["cell"] == "interval 1, branch 0"]
    assert same == [None] * 6, "an interval of 1 caches nothing, so that nothing differs"


def test_the_table_and_the_plot_show_cost_and_error(whole: tuple[Path, Report]) -> None:
    out, report = whole
    text = (out / "table.md").read_text(encoding="utf-8")
    assert text.startswith("# interval-evolution\n")
    assert "Written by `a command`." in text
    assert "| interval 1, branch 0 | 100.0% |" in text
    operations = {line[0]: float(line[1].rstrip("%")) for line in report.lines}
    assert operations["interval 4, branch 0"] < operations["interval 2, branch 0"] < operations["uncached"] == 100
    draws = [json.loads(line) for line in (out / "draws.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(draws) == 2 * len(report.lines), "two batches of each"
    assert len({draw["macs"] for draw in draws if draw["cell"] == "uncached"}) == 1, "those of one picture"
    # The input of the last up layer: 32×8×8 numbers, 4 bytes each, of both halves of a guided picture.
    assert {draw["kept"] for draw in draws if draw["cell"] != "uncached"} == {2 * 32 * 8 * 8 * 4}
    with Image.open(out / "plot.png") as plot:
        assert min(plot.size) > 500
    assert (out / "plot.svg").read_text(encoding="utf-8").rstrip().endswith("</svg>")


@pytest.mark.parametrize("batches", [3, 7])
def test_a_run_that_was_stopped_draws_the_rest_and_is_the_same(
    batches: int, whole: tuple[Path, Report], tmp_path: Path, store_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stopped_after(batches, monkeypatch), pytest.raises(KeyboardInterrupt):
        done(tmp_path / "out", store_root)
    said: list[str] = []
    done(tmp_path / "out", store_root, tell=said.append)
    assert files(tmp_path / "out") == files(whole[0])
    there = len(list((whole[0] / "images").glob("*/*.png")))
    assert said
    assert all("of " + str(there) in line for line in said)


def test_what_is_there_is_not_drawn_again(
    whole: tuple[Path, Report], store_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(whole[0])
    with stopped_after(0, monkeypatch):
        done(whole[0], store_root)
    assert files(whole[0]) == before


def test_a_limit_is_a_beginning_and_the_rest_can_follow(
    whole: tuple[Path, Report], tmp_path: Path, store_root: Path
) -> None:
    done(tmp_path / "out", store_root, limit=4)
    assert {len(list(cell.glob("*.png"))) for cell in (tmp_path / "out" / "images").iterdir()} == {4}
    done(tmp_path / "out", store_root)
    assert files(tmp_path / "out") == files(whole[0])


def test_a_folder_of_another_config_is_refused_and_left_alone(whole: tuple[Path, Report], store_root: Path) -> None:
    before = files(whole[0])
    with pytest.raises(DeepCacheError, match=r"is of a run with steps 4, and this one has 5; give the same, or choose"):
        done(whole[0], store_root, steps=5)
    assert files(whole[0]) == before


def test_pictures_of_one_prompt_are_compared_with_each_other(tmp_path: Path, store_root: Path) -> None:
    two = GIVEN["prompt"][:2]
    report = done(tmp_path, store_root, "diversity", prompt=two, seeds=3, interval=(3,), batch=6)
    column = report.header.index("MSE of two seeds")
    for line, folder in zip(report.lines, ("uncached", "interval-3-branch-0"), strict=True):
        files = [tmp_path / "images" / folder / f"{index:06}.png" for index in range(6)]
        own = [np.asarray(Image.open(file), dtype=np.float64) / 255 for file in files]
        pairs = [(own[i], own[j]) for i, j in ((0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5))]
        apart = [float(np.mean((one - other) ** 2)) for one, other in pairs]
        assert float(line[column]) == pytest.approx(np.median(apart), abs=6e-5)


def test_a_branch_that_the_model_lacks_is_told_before_anything_is_drawn(tmp_path: Path, store_root: Path) -> None:
    with pytest.raises(DeepCacheError, match="12"):
        done(tmp_path / "out", store_root, "branches", interval=(5,), branch=(12,))
    assert not (tmp_path / "out").exists()


def test_pictures_begin_with_pictures(whole: tuple[Path, Report], tmp_path: Path, store_root: Path) -> None:
    """Less strength keeps more of the picture that one begins with; a mask keeps what is black."""
    first = whole[0] / "images" / "uncached" / "000000.png"
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (32, 0, 64, 64))
    mask.save(tmp_path / "mask.png")
    given: dict[str, Any] = {
        "prompt": ("a handwritten nine",),
        "seeds": 1,
        "steps": 8,
        "interval": (2,),
        "images": first,
    }

    def pixels(out: Path) -> np.ndarray:
        with Image.open(out / "images" / "interval-2-branch-0" / "000000.png") as image:
            return np.asarray(image, dtype=np.float64)

    before, apart = np.asarray(Image.open(first), dtype=np.float64), []
    for strength in (0.3, 0.9):
        out = tmp_path / f"{strength}"
        done(out, store_root, "generate", **given, task="img2img", strength=strength)
        apart.append(np.abs(pixels(out) - before).mean())
    assert apart[0] < apart[1] / 2
    masked: dict[str, Any] = {"task": "inpaint", "masks": tmp_path / "mask.png", "strength": 1.0}
    done(tmp_path / "painted", store_root, "generate", **given, **masked)
    change = np.abs(pixels(tmp_path / "painted") - before).mean(axis=(0, 2))
    assert change[:24].mean() < change[40:].mean() / 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "img2img"}, "--task img2img needs --images; give a picture or a folder"),
        ({"task": "inpaint", "images": Path("a.png")}, "--task inpaint needs --masks"),
        ({"images": Path("a.png")}, "--task text2img takes no --images; leave it out"),
        ({"task": "img2imgg"}, r"unknown task 'img2imgg' \(did you mean 'img2img'"),
        ({"task": "img2img", "images": Path("none.png")}, "cannot read none.png: .*; give PNG or JPEG"),
        ({"task": "img2img", "images": Path("none.png"), "strength": 0.0}, "strength 0 is outside 0…1"),
    ],
)
def test_what_a_task_lacks_is_named(given: dict[str, Any], message: str, tmp_path: Path, store_root: Path) -> None:
    with pytest.raises(DeepCacheError, match=message):
        done(tmp_path / "out", store_root, "generate", **given)
    assert not (tmp_path / "out").exists()
