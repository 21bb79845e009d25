"""Which backends work on a GPU machine, what they compute and how fast: `deepcache-trt check gpu`.

Phases run in order of evidence, until a deadline. The checks of one model on one backend share a process, so that one
that crashes, hangs or runs out of memory costs its own rows and no others. Needs no network. JSON and Markdown are
written after every row.
"""

import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deepcache_trt.benchmarks.gpu_check.phases import Job, Phase, plan_phase
from deepcache_trt.benchmarks.gpu_check.processes import run_checks_of, run_child
from deepcache_trt.benchmarks.gpu_check.report import write_report
from deepcache_trt.benchmarks.gpu_check.resume import read_earlier
from deepcache_trt.benchmarks.gpu_check.rows import SKIPPED, WORKS, Row
from deepcache_trt.benchmarks.gpu_check.schedule import Account, run_job, run_phases
from deepcache_trt.benchmarks.machine import NO_GPU
from deepcache_trt.engines import backends

_PROBE_SECONDS = 120


class Report:
    """What was found so far, on disk after each row."""

    def __init__(
        self, stem: Path, environment: Mapping[str, Any], tell: Callable[[str], None], kept: Iterable[Row] = ()
    ) -> None:
        """Begin with the rows that are kept of an earlier check."""
        self.accounts: list[Account] = []
        self._rows = {row.key: row for row in kept}
        self._stem, self._environment, self._tell = stem, environment, tell
        self._told: set[tuple[str, ...]] = set()

    @property
    def rows(self) -> list[Row]:
        """All of them."""
        return list(self._rows.values())

    def add(self, row: Row) -> None:
        """Add a row, or put it in the place of one about the same; say so, once."""
        self._rows.pop(row.key, None)
        self._rows[row.key] = row
        self._write()
        if row.key not in self._told:
            self._told.add(row.key)
            self._tell(str(row))

    def account(self, account: Account) -> None:
        """Add what became of a phase."""
        self.accounts.append(account)
        self._write()

    def _write(self) -> None:
        write_report(self._stem, self._environment, self.rows, self.accounts)


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
            Row(backend=each.name, device=device, model="", check=WORKS, status=SKIPPED, detail=f"asking it {reason}")
            for each in backends.every()
            if each.device == device
        ]
    return environment, rows, facts.get("builds_ahead", False)


def check(
    stem: Path,
    *,
    minutes: float,
    phases: Sequence[Phase],
    store: Path | None,
    resume: Path | None,
    command: str,
    tell: Callable[[str], None],
) -> list[Row]:
    """Look around, run the phases and write the report.

    Args:
        stem: of the two files.
        minutes: for everything.
        phases: in order.
        store: where graphs and engines are taken from and kept; None: a temporary folder, so that everything is made
            anew.
        resume: the JSON of an earlier check, of which what passed is kept; None: there is none.
        command: what the report says it came from.
        tell: called with a line for each row.

    Raises:
        DeepCacheError: what is to be gone on from cannot be read, or is of another machine.
    """
    until = time.monotonic() + 60 * minutes
    earlier = None if resume is None else read_earlier(resume)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as temporary:
        folder = Path(temporary)
        environment, backend_rows, builds_ahead = look_around(folder)
        if earlier is not None:
            earlier.check_same(environment)
            environment = environment | {"went on from": earlier.title}
        environment = environment | {"command": command, "minutes allowed": f"{minutes:g}"}
        report = Report(stem, environment, tell, earlier.kept if earlier else ())
        for row in backend_rows:
            report.add(row)
        passed = earlier.passed if earlier else set()
        run_phases(
            [plan_phase(phase, backend_rows, builds_ahead=builds_ahead, passed=passed) for phase in phases],
            until=until,
            clock=time.monotonic,
            run=functools.partial(_run, store=store or folder / "store", folder=folder, tell=report.add),
            tell=report.add,
            account=report.account,
        )
    return report.rows


def _run(job: Job, seconds: float, *, store: Path, folder: Path, tell: Callable[[Row], None]) -> None:
    start = run_checks_of(job, functools.partial(job.command, store), folder, tell)
    run_job(job, seconds, clock=time.monotonic, start=start, tell=tell)
