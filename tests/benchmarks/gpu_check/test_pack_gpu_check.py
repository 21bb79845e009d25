"""What is packed for a machine without a network comes out there, and runs; a bad part is refused."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deepcache_trt.builder.graphs import graph_key
from deepcache_trt.builder.model_source import random_components
from deepcache_trt.engines.store import Store

SCRIPT = Path(__file__).parents[3] / "scripts" / "pack_gpu_check.py"
PART_MB = 0.25

pack: Callable[[list[str]], None] = runpy.run_path(str(SCRIPT))["main"]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, store_root: Path) -> Path:
    """This package's wheel and the graphs of the digits, in parts."""
    out = tmp_path_factory.mktemp("pack") / "packed"
    pack([
        "--out", str(out), "--part-mb", str(PART_MB), "--wheels", "none", "--graphs", "digits", "--dtype", "float32",
        "--store", str(store_root),
    ])  # fmt: skip
    return out


@pytest.fixture
def carried(packed: Path, tmp_path: Path) -> Path:
    """The same in a folder of another machine."""
    return Path(shutil.copytree(packed, tmp_path / "carried"))


def run(folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PYTHON"] = sys.executable
    command = ["sh", str(folder / "run.sh"), *options]
    return subprocess.run(command, env=environment, cwd=folder.parent, capture_output=True, text=True, timeout=300)


def test_the_parts_have_the_size_that_is_asked_for(packed: Path) -> None:
    sizes = [part.stat().st_size for part in sorted(packed.glob("part-*"))]
    assert len(sizes) > 2
    assert set(sizes[:-1]) == {round(PART_MB * 1e6)}
    assert 0 < sizes[-1] <= PART_MB * 1e6


def test_one_script_unpacks_installs_and_runs(carried: Path, tmp_path: Path) -> None:
    done = run(carried, "--out", str(tmp_path / "found"), "--minutes", "2", "--phases", "sdxl")
    assert done.returncode == 0, done.stderr
    record: dict[str, Any] = json.loads((tmp_path / "found.json").read_text())
    assert [phase["phase"] for phase in record["phases"]] == ["sdxl"]
    assert "commit" not in record["environment"]["deepcache-trt"], "it is the packed package that ran"
    store = Store(carried / "work" / "store")
    for component in random_components("digits", dtype="float32"):
        assert store.find("graphs", graph_key(component)) is not None, component.title


@pytest.mark.parametrize(("harm", "what"), [("missing", "part-001 is missing"), ("damaged", "part-001 is damaged")])
def test_a_part_that_is_missing_or_damaged_is_refused_in_one_line(carried: Path, harm: str, what: str) -> None:
    part = carried / "part-001"
    if harm == "missing":
        part.unlink()
    else:
        part.write_bytes(b"x" + part.read_bytes()[1:])
    done = run(carried, "--out", "found")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {what}; carry it here again\n"
    assert not (carried / "work").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--graphs", "digits,sd16"], "unknown model 'sd16'; there are digits, "),
        (["--torch", "1.13.0"], "graphs belong to a version of torch, and this environment has "),
        (["--part-mb", "0"], "--part-mb must be above 0, not 0"),
    ],
)
def test_what_cannot_be_packed_is_refused_in_one_line(tmp_path: Path, options: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=f"^error: {message}"):
        pack(["--out", str(tmp_path / "packed"), *options])
    assert not (tmp_path / "packed").exists()
