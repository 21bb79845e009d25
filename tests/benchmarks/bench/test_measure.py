"""`deepcache-trt bench`: what becomes of each cell, and going on after an interrupt."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deepcache_trt.benchmarks.bench import measure as bench
from deepcache_trt.benchmarks.bench.grid import SYSTEMS, Settings, cell_from
from deepcache_trt.benchmarks.bench.stage import Stage, pipeline_folder
from deepcache_trt.benchmarks.timing.published_table import interval_params
from deepcache_trt.benchmarks.timing.turns import Outcome
from deepcache_trt.errors import CheckpointError, DeepCacheError, UnknownNameError
from deepcache_trt.runtime.policies.deepcache import DeepCache
from deepcache_trt.runtime.policies.policy import policy_from_json
from tests.benchmarks.bench.fake_stage import install
from tests.benchmarks.nearer import Nearer

SETTINGS = Settings(
    model="digits",
    random_weights=False,
    dtype="float32",
    device="cpu",
    steps=4,
    sizes=(64,),
    batches=(2, 1),
    caching=(interval_params(3, 0),),
    systems=("diffusers", "compiled"),
    backends=(),
    repeats=2,
)
CELLS = [f"64 px, batch {batch}, {column}" for batch in (2, 1) for column in ("plain", "I=3 B=0")]


def unreported(*, done: float, total: float, detail: str = "") -> None:
    """Nobody looks."""


def measure(
    out: Path, tell: Callable[[str], None] = lambda line: None, settings: Settings = SETTINGS
) -> dict[str, Any]:
    record = bench.open_record(out, settings, "the command")
    bench.measure(record, settings, out, out.parent, report=unreported, tell=tell)
    return record


def titles(record: dict[str, Any]) -> list[str]:
    return [cell_from(entry["cell"]).title for entry in record["cells"]]


# Cells.


def test_every_cell_is_written_as_it_ends_with_every_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path / "diary")
    out, seen = tmp_path / "new" / "bench.json", []

    def look(line: str) -> None:
        seen.append((len(json.loads(out.read_text())["cells"]), line))

    record = measure(out, look)
    assert [count for count, _ in seen] == [1, 2, 3, 4]
    assert re.fullmatch(r"64 px, batch 2, plain: diffusers [\d.e-]+ s, other [\d.e-]+ s; about \d+ s left", seen[0][1])
    assert seen[-1][1].endswith("; all done")
    assert json.loads(out.read_text()) == json.loads(json.dumps(record))
    assert titles(record) == CELLS
    outcomes = record["cells"][0]["outcomes"]
    assert [(outcome["name"], len(outcome["samples"])) for outcome in outcomes] == [("diffusers", 2), ("other", 2)]
    assert record["environment"]["packages"].startswith("torch ")


def test_systems_of_a_cell_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path / "diary")
    measure(tmp_path / "bench.json", settings=replace(SETTINGS, batches=(1,), caching=()))
    drawn = [line for line in (tmp_path / "diary").read_text().splitlines() if "draws" in line]
    assert drawn == [f"{name} draws {number}" for number in (1, 2, 3) for name in ("diffusers", "other")]


@pytest.mark.parametrize(
    ("act", "error", "is_memory"),
    [
        ("fail", "ValueError: no such thing in …/store", False),
        ("abort", "killed by signal 6 (SIGABRT); last words: out of memory", True),
        ("run out of memory", "MemoryError: no 8 GiB left", True),
    ],
)
def test_what_fails_is_a_result_of_its_cell_and_the_rest_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str, error: str, is_memory: bool
) -> None:
    """One that ran out of memory beside the others is run once more, alone."""
    install(monkeypatch, tmp_path / "diary", acts={"64 px, batch 2/plain/other": f",{act}"})
    record = measure(tmp_path / "bench.json")
    assert titles(record) == CELLS
    first = {outcome["name"]: outcome for outcome in record["cells"][0]["outcomes"]}
    assert first["other"]["error"] == error
    assert Outcome(name="other", error=error).is_out_of_memory is is_memory
    assert record["cells"][0]["alone"] == (["other"] if is_memory else [])
    assert len(first["diffusers"]["samples"]) == 2
    assert [outcome["error"] for entry in record["cells"][1:] for outcome in entry["outcomes"]] == [""] * 6
    times = (tmp_path / "diary").read_text().splitlines().count("other draws 1")
    assert times == 4 + is_memory


def test_a_peer_that_is_not_installed_says_so_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path / "diary", other="DeepCache package")
    monkeypatch.setattr(bench, "find_spec", lambda name: None)
    record = measure(tmp_path / "bench.json", settings=replace(SETTINGS, batches=(1,), caching=()))
    (outcomes,) = (entry["outcomes"] for entry in record["cells"])
    assert [(outcome["name"], outcome["error"], len(outcome["samples"])) for outcome in outcomes] == [
        ("diffusers", "", 2),
        ("DeepCache package", "not installed: pip install DeepCache", 0),
    ]


def test_a_plan_file_is_a_column_of_ours_alone(tmp_path: Path) -> None:
    """The package has no such plan, but has an interval and a branch."""
    tuned, reused = DeepCache(cache_interval=4, forecast="taylor1"), DeepCache(cache_interval=4)
    settings = replace(SETTINGS, caching=(tuned, reused, Nearer()), systems=SYSTEMS, backends=("onnxruntime",))
    stage = Stage(settings=settings, folder="", store=tmp_path, latents=tmp_path, python="")
    systems = {cell.column: [system.name for system in stage.systems(cell)] for cell in settings.cells[:4]}
    assert systems == {
        "plain": ["ours (onnxruntime)", "diffusers", "diffusers, torch.compile"],
        "interval 4, taylor1": ["ours (onnxruntime)"],
        "I=4 B=0": ["ours (onnxruntime)", "DeepCache package"],
        "nearer": ["ours (onnxruntime)"],
    }
    ours = {cell.policy: stage.systems(cell)[0].arguments for cell in settings.cells[:4]}
    assert all(policy_from_json(arguments["policy"]) == policy for policy, arguments in ours.items())
    assert len({arguments["picture"]["latents"] for arguments in ours.values()}) == 4


# Going on.


def test_a_run_goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path / "diary")
    out = tmp_path / "bench.json"

    def interrupt(line: str) -> None:
        if line.startswith(CELLS[1]):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(out, interrupt)
    assert titles(bench.read_record(out)) == CELLS[:2]
    before = bench.read_record(out)
    told: list[str] = []
    record = measure(out, told.append)
    assert titles(record) == CELLS
    assert [line.partition(":")[0] for line in told] == CELLS[2:]
    assert record["cells"][:2] == before["cells"]
    measure(out, told.append)
    assert len(told) == 2  # it was complete


def edited(out: Path, part: str, **entries: object) -> None:
    record = json.loads(out.read_text())
    record[part].update(entries)
    out.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda out: edited(out, "settings", steps=9), r"its settings has steps 9 and not 4; give another --out"),
        (
            lambda out: edited(out, "environment", CPU="Z80"),
            r"its environment has CPU 'Z80' and not '.*'; give another",
        ),
        (lambda out: edited(out, "settings", odd=1), r"is no result of `deepcache-trt bench`: .*unexpected .* 'odd'"),
        (lambda out: out.write_text("{}"), r"is no result of `deepcache-trt bench`: 'settings'"),
        (lambda out: out.write_text("# notes"), r"is no result of `deepcache-trt bench`: Expecting value"),
    ],
    ids=["settings", "environment", "other fields", "other json", "no json"],
)
def test_the_result_of_another_run_is_not_gone_on_with(
    tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    out = tmp_path / "bench.json"
    out.write_text(json.dumps(bench.open_record(out, SETTINGS, "the command")))
    assert bench.open_record(out, SETTINGS, "the command")["cells"] == []
    change(out)
    text = out.read_text()
    with pytest.raises(DeepCacheError, match=message):
        bench.open_record(out, SETTINGS, "the command")
    assert out.read_text() == text


_RUN = """
import sys
from deepcache_trt import cli
from deepcache_trt.benchmarks.bench import measure as bench
from tests.benchmarks.bench.fake_stage import FakeStage
bench.Stage = FakeStage
sys.argv = ["deepcache-trt", "bench", "--system", "diffusers", "--batch", "1", "--repeats", "2", "--out", sys.argv[1]]
cli.main()
"""


def test_ctrl_c_ends_the_systems_and_leaves_a_file_to_go_on_with(tmp_path: Path) -> None:
    out, diary = tmp_path / "bench.json", tmp_path / "diary"
    diary.touch()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "FAKE_STAGE_DIARY": str(diary)}
    environment["FAKE_STAGE_ACTS"] = "64 px, batch 1/I:3 B:0/other=,hang"
    process = subprocess.Popen(
        [sys.executable, "-c", _RUN, str(out)],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 60
    while "hangs" not in diary.read_text() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    printed, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert (printed, said.splitlines()[-1]) == ("", "interrupted")
    assert titles(bench.read_record(out)) == ["64 px, batch 1, plain"]
    hung = int(diary.read_text().split("hangs ")[1].split()[0])
    with pytest.raises(ProcessLookupError):
        os.kill(hung, 0)


# The model.


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("no/such-model", r"cannot get 'no/such-model': .*; check the name.*, or use --random-weights"),
        ("unet", "unet draws no"),
    ],
)
def test_a_model_that_cannot_be_drawn_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, message: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "model_index.json").write_text('{"unet": ["diffusers", "UNet2DConditionModel"]}')
    found = str(tmp_path / model) if model == "unet" else model
    with pytest.raises(CheckpointError, match=message):
        pipeline_folder(replace(SETTINGS, model=found), tmp_path)


def test_layers_of_a_component_that_the_model_lacks_are_refused_before_anything_is_measured(tmp_path: Path) -> None:
    settings = replace(SETTINGS, model="digits", precision="int8", quantize=("vae:all", "vea:all"))
    with pytest.raises(UnknownNameError, match=r"no component 'vea' \(did you mean 'vae'\?\) to quantize layers of"):
        pipeline_folder(settings, tmp_path)
