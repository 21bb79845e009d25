"""Processes that check: started, watched, and ended in time with all that they started."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from deepcache_trt.benchmarks.gpu_check.phases import Job
from deepcache_trt.benchmarks.gpu_check.rows import Row, read_found
from deepcache_trt.benchmarks.gpu_check.schedule import MORE_TIME, Ending
from deepcache_trt.benchmarks.timing import children

_POLL_SECONDS = 0.2


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
            return Ending(reason=f"not done in the {seconds:.0f} s that there were; {MORE_TIME}", late=True)
        output.seek(0)
        return Ending(reason=children.obituary(child.returncode, output.read()))


Command = Callable[[Sequence[str], Path, float], list[str]]


def run_checks_of(
    job: Job, command: Command, folder: Path, tell: Callable[[Row], None]
) -> Callable[[Sequence[str], float], tuple[Ending, Sequence[str]]]:
    """What runs some of a job's checks in a process, and tells their rows as soon as they are there, or better.

    Args:
        job: whose checks.
        command: gives a process for some checks, the file where it puts what it finds, and when it will be ended.
        folder: for those files.
        tell: called with each row that is new or other than before.
    """

    def start(checks: Sequence[str], seconds: float) -> tuple[Ending, Sequence[str]]:
        out = folder / f"{job.phase}-{job.backend}-{job.device}-{job.model}-{checks[0]}.json".replace(" ", "-")
        told: dict[tuple[str, ...], Row] = {}

        def watch() -> None:
            for row in read_found(out).rows:
                if told.get(row.key) != row:
                    told[row.key] = row
                    tell(row)

        ending = run_child(command(checks, out, time.time() + seconds), seconds, watch)
        return ending, read_found(out).done

    return start
