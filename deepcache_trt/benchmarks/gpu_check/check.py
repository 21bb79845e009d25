"""Which backends work on a GPU machine, what they compute and how fast: `deepcache-trt check gpu`.

Every backend checks every model in a process of its own, so that one that crashes, hangs or runs out of memory costs
its own rows and no others. Needs no network. JSON and Markdown are written after every row.
"""

import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepcache_trt.benchmarks.gpu_check.report import BUILD, CHECKS, WORKS, Row, read_rows, write_report
from deepcache_trt.benchmarks.machine import NO_GPU
from deepcache_trt.benchmarks.timing import children
from deepcache_trt.engines import backends
from deepcache_trt.engines.backend import Backend
from deepcache_trt.errors import UnknownNameError, did_you_mean

MODELS = ("digits", "sd15")

# The GPU that engine plans are built ahead for where there is none: an RTX A5000.
_AHEAD_TARGET = "sm86"

# A process that would be ended sooner is not started.
_LEAST_SECONDS = 20

_PROBE_SECONDS = 120
_POLL_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Job:
    """The checks of one model on one backend; `device` is as in a row."""

    backend: str
    device: str
    model: str

    @property
    def checks(self) -> tuple[str, ...]:
        """Which there are, in order: of what is built for a GPU elsewhere nothing can be run."""
        return (BUILD,) if self.device.startswith("sm") else tuple(CHECKS)

    def row(self, check: str, status: str, detail: str) -> Row:
        """A row about a check that gave none of its own."""
        return Row(
            backend=self.backend, device=self.device, model=self.model, check=check, status=status, detail=detail
        )

    def command(self, store: Path, checks: Sequence[str], out: Path, seconds: float) -> list[str]:
        """What runs some of its checks; -P: no module of the current folder may pass for a library."""
        where = ["--backend", self.backend, "--device", self.device, "--model", self.model, "--store", str(store)]
        limits = ["--out", str(out), "--until", f"{time.time() + seconds:.0f}"]
        return [sys.executable, "-P", "-m", "deepcache_trt.benchmarks.gpu_check.checks", *where, *limits, *checks]


def plan_jobs(working: Sequence[tuple[str, str]], models: Sequence[str], *, builds_ahead: bool) -> list[Job]:
    """The jobs, model by model, the cheapest and most telling first.

    Args:
        working: backends that work, with their devices; with a GPU among them the CPU is not checked.
        models: which models, the cheapest first.
        builds_ahead: whether engine plans for a GPU elsewhere can be built.
    """
    has_gpu = any(device == "cuda" for _, device in working)
    chosen = [place for place in working if place[1] == "cuda" or not has_gpu]
    known = [(backend.name, backend.device) for backend in _in_order()]
    chosen.sort(key=known.index)
    if builds_ahead:
        ahead = backends.builders_ahead()[0]
        chosen += [] if (ahead.name, ahead.device) in chosen else [(ahead.name, _AHEAD_TARGET)]
    return [Job(backend=backend, device=device, model=model) for model in models for backend, device in chosen]


def _in_order() -> list[Backend]:
    """The reference comes first, then what `auto` prefers."""
    return sorted(backends.every(), key=lambda backend: not backend.bit_exact)


def time_limit(seconds_left: float, jobs_left: int) -> float | None:
    """Seconds that the next job may take, at most half of what is left so that one that hangs leaves the others some.

    None where it is not worth starting. The last job gets everything.
    """
    limit = seconds_left if jobs_left == 1 else seconds_left / 2
    return limit if limit >= _LEAST_SECONDS else None


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a process ended: "" as `reason` means in order; `late` means that it was stopped for want of time."""

    reason: str
    late: bool = False


def run_child(command: Sequence[str], seconds: float, watch: Callable[[], None] = lambda: None) -> Ending:
    """Run a process for at most so many seconds.

    Args:
        command: the process; it has no terminal.
        seconds: after which it is killed, with everything that it started.
        watch: called a few times a second meanwhile, and once after its end.
    """
    until = time.monotonic() + seconds
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        child = subprocess.Popen(
            command,
            env=children.environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            while child.poll() is None and time.monotonic() < until:
                watch()
                time.sleep(_POLL_SECONDS)
            late = child.poll() is None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        watch()
        if late:
            return Ending(reason=f"not done in the {seconds:.0f} s that there were; give more --minutes", late=True)
        output.seek(0)
        return Ending(reason=children.obituary(child.returncode, output.read()))


Command = Callable[[Sequence[str], Path, float], list[str]]


def run_job(job: Job, command: Command, folder: Path, seconds: float, tell: Callable[[Row], None]) -> None:
    """Run a job's checks and tell all their rows; where one ends the process, another process goes on with the rest.

    Args:
        job: which checks.
        command: gives a process for some checks, the file where it puts its rows after each of them, and its seconds.
        folder: for those files.
        seconds: for all the checks.
        tell: called with each row as soon as it is there.
    """
    until = time.monotonic() + seconds
    checks: Sequence[str] = job.checks
    while checks:
        out = folder / f"{job.backend}-{job.device}-{job.model}-{checks[0]}.json"
        rows: list[Row] = []
        left = until - time.monotonic()
        ending = run_child(command(checks, out, left), left, lambda: _tell_new(out, rows, tell))  # noqa: B023
        unfinished = [check for check in checks if check not in {row.check for row in rows}]
        if not unfinished:
            return
        ended_in, *checks = unfinished
        reason = ending.reason or "the process ended without a word"
        tell(job.row(ended_in, "skipped" if ending.late else "fail", reason))
        if ending.late or ended_in == BUILD or until - time.monotonic() < _LEAST_SECONDS:
            for check in checks:
                tell(job.row(check, "skipped", f"the process ended in {ended_in}"))
            return


def _tell_new(out: Path, rows: list[Row], tell: Callable[[Row], None]) -> None:
    for row in read_rows(out)[len(rows) :]:
        rows.append(row)
        tell(row)


class Report:
    """The rows so far, on disk after each one."""

    def __init__(self, stem: Path, environment: Mapping[str, Any], tell: Callable[[str], None]) -> None:
        self.rows: list[Row] = []
        self._stem, self._environment, self._tell = stem, environment, tell

    def add(self, row: Row) -> None:
        """Add a row, and say so."""
        self.rows.append(row)
        write_report(self._stem, self._environment, self.rows)
        self._tell(str(row))


def look_around(folder: Path) -> tuple[dict[str, str], list[Row], bool]:
    """The environment, what works here, and whether engine plans for a GPU elsewhere can be built."""
    out = folder / "machine.json"
    command = [sys.executable, "-P", "-m", "deepcache_trt.benchmarks.gpu_check.look_around", "--out", str(out)]
    reason = run_child(command, _PROBE_SECONDS).reason
    facts: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    environment = facts.get("environment", {})
    rows = [Row(**data) for data in facts.get("rows", [])]
    if reason:  # some backend ended the process that asked; each job will find out for itself
        device = "cpu" if environment.get("GPU", NO_GPU) == NO_GPU else "cuda"
        rows = [
            Row(backend=each.name, device=device, model="", check=WORKS, status="skipped", detail=f"asking it {reason}")
            for each in _in_order()
            if each.device == device
        ]
    return environment, rows, facts.get("builds_ahead", False)


def check_models(models: Sequence[str]) -> None:
    """Refuse what is not checked.

    Raises:
        UnknownNameError: a model that is not of `MODELS`.
    """
    for model in models:
        if model not in MODELS:
            known = list(MODELS)
            raise UnknownNameError(f"unknown model {model!r}{did_you_mean(model, known)}; there are {', '.join(known)}")


def check(
    stem: Path,
    *,
    minutes: float,
    models: Sequence[str],
    store: Path | None,
    command: str,
    tell: Callable[[str], None],
) -> list[Row]:
    """Look around, run every job and write the report.

    Args:
        stem: of the two files.
        minutes: for everything.
        models: of `MODELS`; none: all that this machine can take.
        store: where engines are kept; None: a temporary folder, so that everything is built anew.
        command: what the report says it came from.
        tell: called with a line for each row.
    """
    until = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as temporary:
        folder = Path(temporary)
        environment, backend_rows, builds_ahead = look_around(folder)
        report = Report(stem, environment | {"command": command, "minutes allowed": f"{minutes:g}"}, tell)
        for row in backend_rows:
            report.add(row)
        working = [(row.backend, row.device) for row in backend_rows if row.status != "missing"]
        has_gpu = any(device == "cuda" for _, device in working)
        jobs = plan_jobs(working, models or (MODELS if has_gpu else MODELS[:1]), builds_ahead=builds_ahead)
        for number, job in enumerate(jobs):
            seconds_left = until - time.monotonic()
            seconds = time_limit(seconds_left, len(jobs) - number)
            if job.model != MODELS[0] and job.device == "cpu":
                report.add(job.row(job.checks[0], "missing", "a model of real size is checked on a GPU only"))
            elif seconds is None:
                report.add(job.row(job.checks[0], "skipped", f"{max(seconds_left, 0):.0f} s left; give more --minutes"))
            else:
                run_job(job, functools.partial(job.command, store or folder / "store"), folder, seconds, report.add)
    return report.rows
