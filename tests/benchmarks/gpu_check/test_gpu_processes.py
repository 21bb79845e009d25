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

from deepcache_trt.benchmarks.gpu_check.checks import run as gpu_checks
from deepcache_trt.benchmarks.gpu_check.checks.subject import Subject
from deepcache_trt.benchmarks.gpu_check.phases import Job
from deepcache_trt.benchmarks.gpu_check.processes import run_checks_of, run_child
from deepcache_trt.benchmarks.gpu_check.rows import CHECKS, PROBES, Row, read_found
from deepcache_trt.benchmarks.gpu_check.schedule import run_job
from deepcache_trt.engines.store import Store
from deepcache_trt.errors import BackendError

JOB = Job(phase="digits", backend="torch", device="cpu", model="digits", checks=tuple(CHECKS))

# Processes.

# Does what is asked of each check: "pass", "abort", "hang", "exit", or "abort later": after a row, which it betters.
_CHILD = """
import json, os, sys, time
out, script, checks = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:]
rows, done = [], []
def write():
    with open(out + ".part", "w") as file: json.dump(dict(rows=rows, done=done), file)
    os.replace(out + ".part", out)
def found(check, setting="", detail=""):
    place = dict(phase="digits", backend="torch", device="cpu", model="digits")
    return place | dict(check=check, setting=setting, detail=detail, status="pass")
for check in checks:
    match script.get(check, "pass"):
        case "abort": os.abort()
        case "hang": time.sleep(600)
        case "exit": sys.exit(f"no memory left for {check}")
        case "abort later":
            rows.append(found(check, "plain", "1 s"))
            write()
            time.sleep(1)
            rows[-1] = found(check, "plain", "2 s")
            write()
            os.abort()
    rows.append(found(check))
    done.append(check)
    write()
"""


def run_scripted(folder: Path, script: dict[str, str], *, seconds: float = 60) -> list[Row]:
    rows: list[Row] = []

    def command(checks: Sequence[str], out: Path, until: float) -> list[str]:
        return [sys.executable, "-c", _CHILD, str(out), json.dumps(script), *checks]

    start = run_checks_of(JOB, command, folder, rows.append)
    run_job(JOB, seconds, clock=time.monotonic, start=start, tell=rows.append)
    return rows


def by_check(rows: Sequence[Row]) -> dict[str, Row]:
    assert sorted(row.check for row in rows) == sorted(CHECKS), "one row for each check"
    return {row.check: row for row in rows}


def statuses(rows: dict[str, Row]) -> list[str]:
    return [rows[check].status for check in CHECKS]


def test_a_crash_costs_one_check_and_the_others_go_on_in_another_process(tmp_path: Path) -> None:
    rows = by_check(run_scripted(tmp_path, {"capture": "abort", "refit": "exit"}))
    assert statuses(rows) == ["fail" if check in ("capture", "refit") else "pass" for check in CHECKS]
    assert rows["capture"].detail.startswith("killed by signal 6 (SIGABRT)")
    assert rows["refit"].detail == "ended with status 1; last words: no memory left for refit"


def test_nothing_is_checked_after_a_crash_of_the_build(tmp_path: Path) -> None:
    rows = by_check(run_scripted(tmp_path, {"build": "abort"}))
    assert statuses(rows) == ["fail"] + ["skipped"] * (len(CHECKS) - 1)
    assert rows["refit"].detail == "the process ended in build"


def test_what_was_found_before_a_hang_is_kept(tmp_path: Path) -> None:
    started = time.monotonic()
    rows = by_check(run_scripted(tmp_path, {"cut": "hang"}, seconds=3))
    assert time.monotonic() - started < 20
    assert statuses(rows) == ["pass"] * 2 + ["skipped"] * (len(CHECKS) - 2)
    assert rows["cut"].detail == "not done in the 3 s that there were; give more --minutes or fewer --phases"


def test_a_row_is_told_as_soon_as_it_is_there_and_kept_if_its_check_ends_the_process(tmp_path: Path) -> None:
    rows = [row for row in run_scripted(tmp_path, {"images": "abort later"}) if row.check == "images"]
    assert [(row.setting, row.status, row.detail) for row in rows[:2]] == [
        ("plain", "pass", "1 s"),
        ("plain", "pass", "2 s"),
    ]
    assert [(row.setting, row.status) for row in rows[2:]] == [("", "fail")]


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
    return [(row.status, row.detail) for row in read_found(folder / "rows.json").rows]


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
    options = ["--minutes", "9", "--phases", "probe,digits,sdxl", "--store", str(tmp_path / "store")]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text, record = (tmp_path / "check.md").read_text(), json.loads((tmp_path / "check.json").read_text())
    rows = [Row(**data) for data in record["rows"]]
    assert len(done.stderr.strip().splitlines()) == len(rows) + 1
    assert str(tmp_path) not in text + json.dumps(record)
    assert str(Path.home()) not in text + json.dumps(record)
    assert {"commit" in record["environment"]["deepcache-trt"], "torch" in record["environment"]["packages"]} == {True}
    found = {row.check: row for row in rows if row.model == "digits"}
    assert set(found) == {*PROBES, *CHECKS}
    missing = {"record", "compose", "switch", "failed capture", "capture", "refit", "8 bits"}
    assert {check for check, row in found.items() if row.status != "pass"} == missing
    assert found["cut"].figures["exact"] is True
    assert {row.setting for row in rows if row.check == "images"} == {
        "plain diffusers, 20 steps",
        "engines, uncached, 20 steps",
        "engines, I=3 B=0, per step, 20 steps",
        *(f"{system}, I={n} B=0, 20 steps" for system in ("engines", "DeepCache package") for n in (3, 5)),
    }
    assert [phase["phase"] for phase in record["phases"]] == ["probe", "digits", "sdxl"]
    assert record["phases"][-1]["reason"] == "a model of real size is checked on a GPU only"
    again = subprocess.run(
        [*command, *options, "--resume", str(tmp_path / "check.json")], capture_output=True, text=True, timeout=120
    )
    assert again.returncode == 0, again.stderr
    kept = json.loads((tmp_path / "check.json").read_text())
    assert [phase["reason"] for phase in kept["phases"][:2]] == ["all of it passed before"] * 2
    assert len(kept["rows"]) == len(rows)
