"""`deepcache-trt inspect`: what a store holds, as tables and as JSON."""

import json
import shutil
from pathlib import Path

import pytest

from deepcache_trt.builder.engines import build_pieces
from deepcache_trt.engines.store import Store
from tests.builder.quantized.quantized_builds import POLICY, int8, smallest
from tests.builder.small_builds import ahead, needs_rtx, on_cpu
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
    kinds = ("graphs", "weights", "calibrations", "engines")
    assert json.loads(result.out) == {"store": str(tmp_path), **{kind: [] for kind in kinds}}


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


def test_inspect_tells_what_is_quantized_from_what_is_not(run: Run, tmp_path: Path) -> None:
    store = Store(tmp_path)
    build_pieces(int8(smallest("float32"), "all"), POLICY, on_cpu(store))
    found = json.loads(run("inspect", "--store", tmp_path, "--json").out)
    assert [row.get("precision") for row in found["engines"]] == ["int8", "int8"]
    assert sorted(row.get("precision", "") for row in found["graphs"]) == ["", "int8"]
    (calibration,) = found["calibrations"]
    assert set(calibration["scales"]) > {
        f"{name}.weight" for row in found["graphs"] for name in row.get("quantized", ())
    }
    result = run("inspect", "--store", tmp_path)
    assert result.code == 0
    assert "float32, int8" in result.out


@needs_rtx
@pytest.mark.slow
def test_inspect_tells_in_how_many_layers_of_a_plan_numbers_of_8_bits_are_multiplied(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    made = build_pieces(int8(smallest("float16"), "all"), POLICY, ahead(Store(tmp_path), "sm86"))
    layers = made["full"].about["built"]["quantized_layers"]
    assert f"float16, int8 in {layers} of {layers} layers" in run("inspect", "--store", tmp_path).out
