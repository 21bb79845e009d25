"""The check of a GPU machine: what is missing, fails, crashes or hangs costs its own row and no other."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from deepcache_trt.benchmarks.gpu_check import checks as gpu_checks
from deepcache_trt.benchmarks.gpu_check.check import Job, plan_jobs, run_child, run_job, time_limit
from deepcache_trt.benchmarks.gpu_check.report import CHECKS, WORKS, Row, markdown, read_rows, write_report
from deepcache_trt.benchmarks.gpu_check.subject import Subject
from deepcache_trt.benchmarks.report import without_paths
from deepcache_trt.engines.store import Store
from deepcache_trt.errors import BackendError

JOB = Job(backend="torch", device="cpu", model="digits")


def row(check: str, status: str = "pass", **fields: object) -> Row:
    place = {"backend": "torch", "device": "cuda", "model": "digits"}
    return Row(**{**place, "check": check, "status": status, **fields})  # type: ignore[arg-type]


# The report.


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("delete /home/ann/.cache/store/engines/1f2e to build", "delete …/1f2e to build"),
        ("cannot read '/tmp/x/plan', /root/y/: gone", "cannot read '…/plan', …/y: gone"),
        ("height/8 of 3/4 at https://pypi.org/simple/x", "height/8 of 3/4 at https://pypi.org/simple/x"),
    ],
)
def test_paths_of_the_machine_are_cut_down(text: str, shown: str) -> None:
    assert without_paths(text) == without_paths(shown) == shown
    assert row("build", "fail", detail=text).detail == shown


def test_the_report_shows_each_check_of_each_backend_and_every_reason() -> None:
    rows = [
        row(WORKS, model="", detail="2.13.0"),
        row(WORKS, "missing", backend="tensorrt", model="", detail="not installed; pip install it"),
        row("build"),
        row("parity", detail="full 1.0e-03 | limit 3e-2"),
        row("cut", "fail", detail="differs"),
        row(
            "steps", figures={"full_ms": 2.0, "shallow_ms": 0.5, "eager_full_ms": 4.0, "ratio": 4.0, "ideal_ratio": 9.5}
        ),
        row("images", figures={"setting": "plain", "seconds": 1.5, "speedup": 1.0, "identical": True, "psnr_db": None}),
        row("images", "missing", detail="DeepCache package: No module named 'DeepCache'"),
        row("capture", "skipped", backend="onnxruntime", detail="3 s left"),
        row("refit", "skipped", backend="onnxruntime", detail="3 s left"),
    ]
    text = markdown({"GPU": "NVIDIA RTX A5000", "driver": "580"}, rows)
    lines = text.splitlines()
    assert lines[0] == "# GPU check: NVIDIA RTX A5000"
    assert "Rows: 5 passed, 1 failed, 2 missing, 2 skipped." in lines
    assert "| tensorrt | cuda | – | not installed; pip install it |" in lines
    assert "| model | check | torch (cuda) | onnxruntime (cuda) |" in lines
    assert f"| digits | cut: {CHECKS['cut']} | ✗ |  |" in lines
    assert f"| digits | images: {CHECKS['images']} | ✓ |  |" in lines, "one missing setting does not hide the others"
    assert f"| digits | capture: {CHECKS['capture']} |  | – |" in lines
    assert "| digits | torch (cuda) | 4 | 2 | 0.5 | 4 | 9.5 |  |  |" in lines
    assert "| digits | torch (cuda) | plain | 1.5 | 1.00× | identical |" in lines
    assert "| digits | torch (cuda) | parity | full 1.0e-03 ¦ limit 3e-2 |" in lines
    assert "- **torch (cuda)** digits: cut failed: differs" in lines
    assert "- **onnxruntime (cuda)** digits: capture, refit skipped: 3 s left" in lines


def test_a_report_without_rows_says_what_is_known() -> None:
    assert "| GPU | no GPU |" in markdown({"GPU": "no GPU"}, [])


def test_the_json_is_strict_and_has_every_row(tmp_path: Path) -> None:
    rows = [row("parity", "fail", figures={"relative_error": {"full": float("nan"), "shallow": 1.0}}), row("cut")]
    write_report(tmp_path / "new" / "check.v1", {"GPU": "none"}, rows)
    found = json.loads((tmp_path / "new" / "check.v1.json").read_text(), parse_constant=pytest.fail)
    assert [Row(**data) for data in found["rows"]] == rows
    assert found["rows"][0]["figures"] == {"relative_error": {"full": None, "shallow": 1.0}}
    assert (tmp_path / "new" / "check.v1.md").is_file()


# The budget and the order.


@pytest.mark.parametrize(
    ("seconds", "jobs", "limit"),
    [(600, 4, 300), (600, 1, 600), (40, 2, 20), (39, 2, None), (19, 1, None), (-5, 1, None)],
)
def test_a_job_may_take_half_of_the_time_and_the_last_one_all(seconds: float, jobs: int, limit: float | None) -> None:
    assert time_limit(seconds, jobs) == limit


def test_the_small_model_comes_first_and_the_cpu_only_where_there_is_no_gpu() -> None:
    working = [
        ("onnxruntime", "cpu"),
        ("torch", "cpu"),
        ("tensorrt", "cuda"),
        ("tensorrt-rtx", "cuda"),
        ("torch", "cuda"),
    ]
    jobs = plan_jobs(working, ["digits", "sd15"], builds_ahead=True)
    order = [("torch", "cuda"), ("tensorrt", "cuda"), ("tensorrt-rtx", "cuda")]
    assert [(job.model, job.backend, job.device) for job in jobs] == [
        (model, *place) for model in ("digits", "sd15") for place in order
    ]
    without_gpu = plan_jobs(working[:2], ["digits"], builds_ahead=True)
    assert [(job.backend, job.device) for job in without_gpu] == [
        ("torch", "cpu"),
        ("onnxruntime", "cpu"),
        ("tensorrt-rtx", "sm86"),
    ]
    assert without_gpu[-1].checks == ("build",), "a plan for a GPU elsewhere can be built, not run"


# Processes.

# Does what is asked of each check: "pass", "abort", "hang" or "exit".
_CHILD = """
import json, os, sys, time
out, script, checks = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:]
rows = []
for check in checks:
    match script.get(check, "pass"):
        case "abort": os.abort()
        case "hang": time.sleep(600)
        case "exit": sys.exit(f"no memory left for {check}")
    rows.append(dict(backend="torch", device="cpu", model="digits", check=check, status="pass"))
    with open(out + ".part", "w") as file: json.dump(rows, file)
    os.replace(out + ".part", out)
"""


def run_scripted(folder: Path, script: dict[str, str], *, seconds: float = 60) -> dict[str, Row]:
    rows: list[Row] = []

    def command(checks: Sequence[str], out: Path, seconds: float) -> list[str]:
        return [sys.executable, "-c", _CHILD, str(out), json.dumps(script), *checks]

    run_job(JOB, command, folder, seconds, rows.append)
    assert sorted(row.check for row in rows) == sorted(CHECKS), "one row for each check"
    return {row.check: row for row in rows}


def statuses(rows: dict[str, Row]) -> list[str]:
    return [rows[check].status for check in CHECKS]


def test_a_crash_costs_one_check_and_the_others_go_on_in_another_process(tmp_path: Path) -> None:
    rows = run_scripted(tmp_path, {"capture": "abort", "refit": "exit"})
    assert statuses(rows) == ["pass"] * 3 + ["fail"] + ["pass"] * 5 + ["fail"]
    assert rows["capture"].detail.startswith("killed by signal 6 (SIGABRT)")
    assert rows["refit"].detail == "ended with status 1; last words: no memory left for refit"


def test_nothing_is_checked_after_a_crash_of_the_build(tmp_path: Path) -> None:
    rows = run_scripted(tmp_path, {"build": "abort"})
    assert statuses(rows) == ["fail"] + ["skipped"] * 9
    assert rows["refit"].detail == "the process ended in build"


def test_what_was_found_before_a_hang_is_kept(tmp_path: Path) -> None:
    started = time.monotonic()
    rows = run_scripted(tmp_path, {"cut": "hang"}, seconds=3)
    assert time.monotonic() - started < 20
    assert statuses(rows) == ["pass"] * 2 + ["skipped"] * 8
    assert rows["cut"].detail == "not done in the 3 s that there were; give more --minutes"


_PARENT = """
import subprocess, sys
child = subprocess.Popen(["sleep", "600"])
with open(sys.argv[1], "w") as file: file.write(str(child.pid))
child.wait()
"""


def test_a_process_that_is_stopped_leaves_no_child_behind(tmp_path: Path) -> None:
    ending = run_child([sys.executable, "-c", _PARENT, str(tmp_path / "pid")], 3)
    assert ending.late
    grandchild = int((tmp_path / "pid").read_text())
    until = time.monotonic() + 10
    while _is_running(grandchild) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _is_running(grandchild)


def _is_running(process: int) -> bool:
    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_a_signal_is_named() -> None:
    ending = run_child([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], 30)
    assert (ending.reason, ending.late) == (f"killed by signal {signal.SIGKILL:d} (SIGKILL)", False)


# The checks of one process.


def run_with(folder: Path, monkeypatch: pytest.MonkeyPatch, *, until: float, **checks: object) -> list[tuple[str, str]]:
    for name, found in checks.items():

        def check(subject: Subject, name: str = name, found: object = found) -> list[Row]:
            if isinstance(found, Exception):
                raise found
            return [subject.row(name, bool(found))]

        monkeypatch.setitem(gpu_checks._RUN, name, check)
    subject = Subject(backend="torch", device="cpu", model="digits", store=Store(folder), until=until)
    gpu_checks.run_checks(subject, list(checks), folder / "rows.json")
    return [(row.status, row.detail) for row in read_rows(folder / "rows.json")]


def test_a_check_that_raises_is_one_failed_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = BackendError("the plan at /tmp/store/engine.plan does not load; build it again")
    found = run_with(
        tmp_path, monkeypatch, until=time.time() + 60, build=True, parity=error, cut=KeyError("tap_0"), steps=True
    )
    assert found == [
        ("pass", ""),
        ("fail", "the plan at …/engine.plan does not load; build it again"),
        ("fail", "KeyError: 'tap_0'"),
        ("pass", ""),
    ]


def test_without_engines_nothing_else_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run_with(tmp_path, monkeypatch, until=time.time() + 60, build=MemoryError(), parity=True, cut=True)
    assert found == [("fail", "MemoryError"), *[("skipped", "the engines could not be built")] * 2]


def test_a_check_that_no_longer_fits_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run_with(tmp_path, monkeypatch, until=time.time() + 2.6, build=True, parity=True)
    assert found == [("skipped", "3 s left")] * 2


# All of it.


@pytest.mark.slow
def test_this_machine_is_checked_by_one_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deepcache_trt.benchmarks.gpu_check", "--out", str(tmp_path / "check.json")]
    done = subprocess.run([*command, "--minutes", "9", "--models", "digits"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text, record = (tmp_path / "check.md").read_text(), json.loads((tmp_path / "check.json").read_text())
    rows = [Row(**data) for data in record["rows"]]
    assert len(done.stderr.strip().splitlines()) == len(rows) + 1
    assert str(tmp_path) not in text + json.dumps(record)
    assert str(Path.home()) not in text + json.dumps(record)
    torch_rows = {row.check: row for row in rows if row.backend == "torch" and row.model}
    assert set(torch_rows) == set(CHECKS)
    assert {"commit" in record["environment"]["deepcache-trt"], "torch" in record["environment"]["packages"]} == {True}
    for check in ("build", "parity", "cut", "loop", "steps", "images", "shapes", "workspace"):
        assert torch_rows[check].status == "pass"
    assert torch_rows["cut"].figures["exact"] is True
    settings = {row.figures["setting"] for row in rows if row.check == "images" and row.backend == "torch"}
    assert settings == {
        "plain diffusers",
        *(f"engines, cache_interval={interval}" for interval in (1, 3, 5)),
        *(f"DeepCache package, cache_interval={interval}" for interval in (3, 5)),
    }
