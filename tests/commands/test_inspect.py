"""`deepcache-trt inspect`: what a store holds, as tables and as JSON."""

import json
from pathlib import Path

import pytest

from tests.commands.command_line import Run


def test_inspect_of_an_empty_store_names_the_command_that_fills_it(run: Run, tmp_path: Path) -> None:
    result = run("inspect", "--store", tmp_path)
    assert result.code == 0
    assert " ".join(result.out.split()).endswith("fill it with: deepcache-trt build --model digits")


def test_inspect_of_an_empty_store_as_json(run: Run, tmp_path: Path) -> None:
    result = run("inspect", "--store", tmp_path, "--json")
    assert json.loads(result.out) == {"store": str(tmp_path), "graphs": [], "weights": [], "engines": []}


def test_inspect_lists_engines_and_a_shallow_one_is_less_work(run: Run, built: Path) -> None:
    found = json.loads(run("inspect", "--json").out)
    assert found["store"] == str(built)
    lines = run("build", "--model", "digits", "--component", "unet").out.splitlines()
    keys = {Path(line.rpartition(" in ")[2]).name for line in lines}  # another test may have built them first
    rows = {r["variant"]["name"]: r for r in found["engines"] if r["key"] in keys}
    assert set(rows) == {"full", "shallow"}
    full, shallow = rows["full"], rows["shallow"]
    assert shallow["variant"]["consumes"] == full["variant"]["emits"] == ["tap_0"]
    for kind in ("weights", "attention"):
        assert 0 < shallow["macs"][kind] < full["macs"][kind]
    assert shallow["macs"]["sizes"] == full["macs"]["sizes"]
    assert {row["key"] for row in found["graphs"]} >= {full["graph"]}


def test_inspect_prints_the_same_as_tables(run: Run, built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    result = run("inspect")
    assert result.code == 0
    assert str(built) in "".join(result.out.split())
    assert "full k=0" in result.out
    assert "shallow k=0" in result.out
