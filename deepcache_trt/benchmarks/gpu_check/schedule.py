"""When phases and their jobs run and for how long: functions of a clock and of what runs, which know no process.

One deadline holds for all. A phase that cannot have its least is skipped, one that hangs leaves half of what there was
to those after it, and what a phase does not use is theirs too.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from deepcache_trt.benchmarks.gpu_check.phases import Job, Phase, Planned, failed, skipped
from deepcache_trt.benchmarks.gpu_check.rows import BUILD, FAIL, SKIPPED, Row
from deepcache_trt.errors import first_line

Clock = Callable[[], float]
Tell = Callable[[Row], None]

MORE_TIME = "give more --minutes or fewer --phases"

# A process that would be ended sooner is not started.
LEAST_SECONDS = 20


@dataclass(frozen=True, kw_only=True)
class Account:
    """What became of a phase's time.

    Attributes:
        phase: its name.
        shows: what it is for.
        least_seconds: as the phase states them; and so the next.
        usual_seconds: what it usually takes.
        given_seconds: what it was allowed; None: it was not begun.
        took_seconds: what it took.
        reason: why it was not begun, or what ended it; "" where it came through.
    """

    phase: str
    shows: str
    least_seconds: float
    usual_seconds: float
    given_seconds: float | None = None
    took_seconds: float = 0.0
    reason: str = ""

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def phase_seconds(phase: Phase, left: float, later: Sequence[Phase]) -> float | None:
    """Seconds that a phase may take of those that are left; None where there are fewer than its least.

    The last one gets everything. Another gets twice what it usually takes, or what those after it usually leave, if
    that is more, but at most half of what is left, or its least.
    """
    if left < phase.least_seconds:
        return None
    if not later:
        return left
    spare = left - sum(each.usual_seconds for each in later)
    return max(phase.least_seconds, min(left / 2, max(2 * phase.usual_seconds, spare)))


def job_seconds(left: float, jobs_left: int) -> float | None:
    """Seconds of its phase's that the next job may take: half, or all if it is the last; None where that is too few."""
    seconds = left if jobs_left == 1 else left / 2
    return seconds if seconds >= LEAST_SECONDS else None


def run_phases(
    planned: Sequence[Planned],
    *,
    until: float,
    clock: Clock,
    run: Callable[[Job, float], None],
    tell: Tell,
    account: Callable[[Account], None],
) -> None:
    """Run the phases one after the other, until the deadline.

    Args:
        planned: which, with their jobs.
        until: the deadline, on the clock.
        clock: tells seconds.
        run: runs a job for so many seconds and tells its rows.
        tell: called with each row about what did not run.
        account: called when a phase is over.
    """
    for number, each in enumerate(planned):
        phase, left = each.phase, until - clock()
        for row in each.rows:
            tell(row)
        later = [after.phase for after in planned[number + 1 :] if after.jobs]
        given = phase_seconds(phase, left, later) if each.jobs else None
        reason, started = "", clock()
        if each.is_kept:
            reason = "all of it passed before"
        elif not each.jobs:
            reason = "; ".join(dict.fromkeys(row.detail for row in each.rows)) or "no backend of it here"
        elif given is None:
            reason = f"needs {phase.least_seconds:.0f} s and {max(left, 0):.0f} s are left; {MORE_TIME}"
            tell(skipped(phase, reason))
        else:
            try:
                _run_jobs(each.jobs, started + given, clock, run, tell)
            except Exception as error:  # what goes wrong around one phase costs the others nothing
                reason = f"{type(error).__name__}: {first_line(error)}"
                tell(failed(phase, reason))
        account(
            Account(
                phase=phase.name,
                shows=phase.shows,
                least_seconds=phase.least_seconds,
                usual_seconds=phase.usual_seconds,
                given_seconds=given,
                took_seconds=clock() - started,
                reason=reason,
            )
        )


def _run_jobs(jobs: Sequence[Job], until: float, clock: Clock, run: Callable[[Job, float], None], tell: Tell) -> None:
    for number, job in enumerate(jobs):
        left = until - clock()
        seconds = job_seconds(left, len(jobs) - number)
        if seconds is None:
            for check in job.checks:
                tell(job.row(check, SKIPPED, f"{max(left, 0):.0f} s of the phase's left; {MORE_TIME}"))
        else:
            run(job, seconds)


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a process ended: "" as `reason` means in order; `late` means that it was stopped for want of time."""

    reason: str = ""
    late: bool = False


# Runs some checks of a job for at most so many seconds, tells their rows and says which are over.
Start = Callable[[Sequence[str], float], tuple[Ending, Sequence[str]]]


def run_job(job: Job, seconds: float, *, clock: Clock, start: Start, tell: Tell) -> None:
    """Run a job's checks; where one ends the process, another process goes on with the rest.

    Args:
        job: which checks.
        seconds: for all of them.
        clock: tells seconds.
        start: runs a process.
        tell: called with a row for each check that gave none.
    """
    until = clock() + seconds
    checks: Sequence[str] = job.checks
    while checks:
        ending, done = start(checks, until - clock())
        unfinished = [check for check in checks if check not in done]
        if not unfinished:
            return
        ended_in, *checks = unfinished
        reason = ending.reason or "the process ended without a word"
        tell(job.row(ended_in, SKIPPED if ending.late else FAIL, reason))
        if ending.late or ended_in == BUILD or until - clock() < LEAST_SECONDS:
            for check in checks:
                tell(job.row(check, SKIPPED, f"the process ended in {ended_in}"))
            return
