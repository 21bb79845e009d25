"""`deepcache-trt inspect`: what a store holds, as tables and as JSON."""

import json
import shutil
from pathlib import Path

import pytest

from tests.commands.command_line import Run


@pytest.fixture
def engines(run: Run, built: Path, tmp_path: Path) -> dict[str, Path]:
    """By key, those of one model, in a store of their own: of each that there is the operations are counted."""
    lines = run("build", "--model", "digits", "--component", "unet", "--store", built).out.splitlines()
    copied = {}
    for folder in (Path(line.rpartition(" in ")[2]) for line in lines):
        copied[folder.name] = shutil.copytree(folder, tmp_path / "engines" / folder.name)
        graph = json.loads((folder / "manifest.json").read_text())["about"]["graph"]
        shutil.copytree(built / "graphs" / graph, tmp_path / "graphs" / graph, dirs_exist_ok=True)
    return copied


def test_inspect_of_an_empty_store_names_the_command_that_fills_it(run: Run, tmp_path: Path) -> None:
    result = run("inspect", "--store", tmp_path)
    assert result.code == 0
    assert " ".join(result.out.split()).endswith("fill it with: deepcache-trt build --model digits")


def test_inspect_of_an_empty_store_as_json(run: Run, tmp_path: Path) -> None:
    result = run("inspect", "--store", tmp_path, "--json")
    assert json.loads(result.out) == {"store": str(tmp_path), "graphs": [], "weights": [], "engines": []}


def test_inspect_lists_engines_and_a_shallow_one_is_less_work(
    run: Run, engines: dict[str, Path], tmp_path: Path
) -> None:
    found = json.loads(run("inspect", "--store", tmp_path, "--json").out)
    assert found["store"] == str(tmp_path)
    rows = {row["variant"]["name"]: row for row in found["engines"]}
    assert {row["key"] for row in rows.values()} == set(engines)
    assert set(rows) == {"full", "shallow"}
    full, shallow = rows["full"], rows["shallow"]
    assert shallow["variant"]["consumes"] == full["variant"]["emits"] == ["tap_0"]
    for kind in ("weights", "attention"):
        assert 0 < shallow["macs"][kind] < full["macs"][kind]
    assert shallow["macs"]["sizes"] == full["macs"]["sizes"]
    assert {row["key"] for row in found["graphs"]} >= {full["graph"]}


def test_inspect_prints_the_same_as_tables(
    run: Run, engines: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    result = run("inspect", "--store", tmp_path)
    assert result.code == 0
    assert str(tmp_path) in "".join(result.out.split())
    assert "full gives tap_0" in result.out
    assert "shallow from tap_0" in result.out
