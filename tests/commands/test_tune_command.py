"""`deepcache-trt tune`: the plan it writes, how it says to draw with it, and what it refuses."""

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.commands.command_line import Run, assert_one_line


@pytest.mark.usefixtures("built")
def test_tune_writes_a_plan_that_generate_takes(run: Run, tmp_path: Path) -> None:
    out, branches = tmp_path / "tuned", ["--branch", 0]
    few = ["--steps", 4, "--seeds", 1, "--unseen", 1, "--prompt", "two"]
    result = run("tune", *few, *branches, "--macs", 0.6, "--plot", "svg", "--out", out)
    assert result.code == 0
    assert result.out.endswith(f"{out / 'plan.json'}\n")
    assert {path.name for path in out.iterdir()} == {"plan.json", "tune.json", "tune.md", "front.svg"}
    record = json.loads((out / "tune.json").read_text())
    assert record["best"]["cost"] <= record["budget"] == 0.6
    assert set(record["checked"]) >= {"uncached", "default", "chosen"}
    assert "![Cost and error of the plans](front.svg)" in (out / "tune.md").read_text()
    image = tmp_path / "two.png"
    assert run("generate", "two", "--steps", 4, "--plan", out / "plan.json", "--out", image).code == 0
    assert image.is_file()


@pytest.mark.usefixtures("built")
def test_tune_keeps_a_fidelity(run: Run, tmp_path: Path) -> None:
    few = ["--steps", 4, "--seeds", 1, "--unseen", 1, "--prompt", "two", "--branch", 0, "--out", tmp_path]
    result = run("tune", *few, "--error", 0.9)
    assert result.code == 0
    about = json.loads((tmp_path / "plan.json").read_text())["about"]
    assert about["asked"] == "error of at most 0.9"
    assert 0 < about["error"] < 1
    assert about["speedup"] > 0
    assert "Asked for: error of at most 0.9" in (tmp_path / "tune.md").read_text()


@pytest.mark.usefixtures("built")
def test_a_budget_that_nothing_meets_is_one_line_with_the_least(run: Run, tmp_path: Path) -> None:
    options = ["--steps", 4, "--prompt", "two", "--branch", 0, "--speedup", 1000, "--out", tmp_path]
    result = run("tune", *options)
    assert result.code == 2
    assert re.search(r"error: a budget of 0\.1% of the uncached seconds is below", result.err.splitlines()[-1])
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("built")
def test_tune_searches_samplers_and_says_how_to_draw_what_it_found(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepcache_trt.samplers._FINEST_STEPS", 20)
    few = ["--seeds", 1, "--unseen", 1, "--prompt", "two", "--branch", 0, "--out", tmp_path, "--plot", "svg"]
    samplers = ["--scheduler", "ddim", "--scheduler", "unipc,timestep_spacing=trailing", "--steps", 4, "--steps", 2]
    result = run("tune", *few, *samplers, "--speedup", 1.6)
    assert result.code == 0
    about = json.loads((tmp_path / "plan.json").read_text())["about"]
    assert about["scheduler"] in ("DDIM", "UniPCMultistep,timestep_spacing=trailing")
    assert about["steps"] in (4, 2)
    assert about["against"] == "DDIM, 20 steps"
    assert about["seconds_an_image"] > 0
    record = json.loads((tmp_path / "tune.json").read_text())
    assert record["schedulers"] == ["DDIM", "UniPCMultistep,timestep_spacing=trailing"]
    assert len(record["uncached"]) == 4
    assert "DDIM 4" in result.out
    last = result.err.splitlines()[-1]
    command = shlex.split(last.removeprefix("draw with it: deepcache-trt "))
    assert command[:2] == ["generate", "PROMPT"]
    assert command[-4:] == ["--scheduler", about["scheduler"], "--steps", str(about["steps"])]
    image = tmp_path / "two.png"
    assert run("generate", "two", *command[2:], "--out", image).code == 0
    assert image.is_file()


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("eulerancestral", "error: EulerAncestralDiscrete draws noise at its steps"),
        ("unipcc", "error: unknown scheduler 'unipcc' (did you mean"),
    ],
)
def test_a_sampler_that_cannot_be_searched_is_one_line(run: Run, tmp_path: Path, name: str, said: str) -> None:
    result = run("tune", "--steps", 2, "--scheduler", name, "--out", tmp_path)
    assert_one_line(result)
    assert said in result.err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_tune_finds_the_layers_that_bear_a_precision_and_generate_takes_them(run: Run, tmp_path: Path) -> None:
    few = ["--steps", 6, "--unseen", 1, "--prompt", "two", "--out", tmp_path / "layers"]
    result = run("tune", "--precision", "int8", "--loss", 2, *few)
    assert result.code == 0
    layers = tmp_path / "layers" / "layers.txt"
    assert result.out.endswith(f"{layers}\n")
    record = json.loads((layers.parent / "precision.json").read_text())
    patterns = [pattern for group in record["groups"][: record["taken"]] for pattern in group["patterns"]]
    assert layers.read_text().splitlines() == patterns
    assert record["loss"] <= 2
    image = tmp_path / "two.png"
    drawing = ["--steps", 4, "--interval", 3, "--precision", "int8", "--quantize", f"@{layers}", "--out", image]
    assert run("generate", "two", *drawing).code == 0
    assert image.is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--loss", 1], "--loss asks which layers bear a precision; give --precision int8 too"),
        (["--loss", 1, "--precision", "int8", "--quantize", "all"], "--quantize all has no meaning with --loss"),
        (["--loss", 1, "--precision", "int8", "--scheduler", "ddim"], "--scheduler ddim has no meaning with --loss"),
        (["--loss", 1, "--precision", "int8", "--steps", 4, "--steps", 8], "--steps is given 2 times; give it once"),
        (["--loss", 1, "--macs", 0.4], "--macs and --loss ask for different things"),
        (["--loss", -1, "--precision", "int8"], "--loss must be above 0, not -1"),
        (["--precision", "int8", "--quantize", "@nowhere.txt"], "--quantize @nowhere.txt cannot be read"),
    ],
)
def test_what_has_no_meaning_where_layers_are_looked_for_is_refused(
    run: Run, options: list[object], message: str, tmp_path: Path
) -> None:
    result = run("tune", *options, "--out", tmp_path / "out")
    assert_one_line(result)
    assert message in result.err
    assert not (tmp_path / "out").exists()
