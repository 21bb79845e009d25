"""The whole schedule with a simulated clock: phases that overrun, crash or hang cost little but their own rows."""

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from deepcache_trt.benchmarks.gpu_check.phases import PHASES, REAL_SIZE, Job, Phase, find_phases, plan_phase
from deepcache_trt.benchmarks.gpu_check.resume import Earlier
from deepcache_trt.benchmarks.gpu_check.rows import MEANINGS, WHOLE, Row
from deepcache_trt.benchmarks.gpu_check.schedule import Account, Ending, job_seconds, phase_seconds, run_job, run_phases
from deepcache_trt.commands.check.gpu import gpu
from deepcache_trt.errors import UnknownNameError
from tests.benchmarks.gpu_check.gpu_rows import about_backends

ROOT = Path(__file__).parents[3]
MINUTES = 15
NAMES = tuple(phase.name for phase in PHASES)


@dataclass
class Machine:
    """A machine whose processes take their time on a clock of its own.

    `troubles` has, by phase and check, what goes wrong there: "crash", "hang", or "overrun": its process cannot be
    killed for a minute. Every process also takes five seconds to start.
    """

    device: str = "cuda"
    troubles: Mapping[tuple[str, str], str] = field(default_factory=dict)
    pace: float = 1.0
    now: float = 1000.0
    rows: list[Row] = field(default_factory=list)
    accounts: list[Account] = field(default_factory=list)
    processes: int = 0

    def check(self, minutes: float, phases: Sequence[Phase] = PHASES, kept: Earlier | None = None) -> None:
        """The whole check, from the planning on."""
        passed = set() if kept is None else kept.passed
        self.rows += [] if kept is None else kept.kept
        backends = about_backends(self.device)
        run_phases(
            [plan_phase(phase, backends, builds_ahead=True, passed=passed) for phase in phases],
            until=self.now + 60 * minutes,
            clock=lambda: self.now,
            run=lambda job, seconds: run_job(
                job, seconds, clock=lambda: self.now, start=partial(self.start, job), tell=self.rows.append
            ),
            tell=self.rows.append,
            account=self.accounts.append,
        )

    def start(self, job: Job, checks: Sequence[str], seconds: float) -> tuple[Ending, list[str]]:
        """A process."""
        self.processes += 1
        until, done = self.now + seconds, list[str]()
        usual = next(phase for phase in PHASES if phase.name == job.phase).usual_seconds
        self.now += 5
        for check in checks:
            trouble = self.troubles.get((job.phase, check), "")
            self.now += self.pace * usual / 30
            if trouble == "crash":
                return Ending(reason="killed by signal 11 (SIGSEGV)"), done
            if trouble or self.now > until:
                self.now = until + (60 if trouble == "overrun" else 0)
                return Ending(reason="not done in time", late=True), done
            self.rows.append(job.row(check, "pass", ""))
            done.append(check)
        return Ending(), done

    def earlier(self) -> Earlier:
        """What another check may go on from."""
        return Earlier(path=None, environment={}, rows=tuple(self.rows))  # type: ignore[arg-type]

    def statuses(self, phase: str) -> Counter[str]:
        return Counter(row.status for row in self.rows if row.phase == phase)


def assert_every_check_has_one_row(machine: Machine) -> None:
    """Each phase has a row; of each of its jobs each check has one."""
    counted = Counter(row.key for row in machine.rows)
    assert set(counted.values()) == {1}
    for phase in PHASES:
        assert any(row.phase == phase.name for row in machine.rows), phase.name
        skipped = any((row.phase, row.check) == (phase.name, WHOLE) for row in machine.rows)
        for job in plan_phase(phase, about_backends(machine.device), builds_ahead=True).jobs:
            rows = {row.check for row in machine.rows if (row.phase, row.backend, row.model) == _place(job)}
            assert rows == set(job.checks) or (skipped and not rows)
    assert [account.phase for account in machine.accounts] == list(NAMES)


def _place(job: Job) -> tuple[str, str, str]:
    return job.phase, job.backend, job.model


def test_where_nothing_goes_wrong_every_phase_passes_in_a_quarter_of_an_hour() -> None:
    machine = Machine()
    machine.check(MINUTES)
    assert_every_check_has_one_row(machine)
    assert {row.status for row in machine.rows} == {"pass"}
    assert list(dict.fromkeys(row.phase for row in machine.rows)) == list(NAMES), "in order of evidence"
    assert machine.now <= 1000 + 60 * MINUTES
    assert sum(phase.usual_seconds for phase in PHASES) <= 60 * MINUTES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("trouble", ["crash", "hang", "overrun"])
def test_a_phase_that_goes_wrong_costs_its_own_rows_and_at_most_half_of_what_is_left(name: str, trouble: str) -> None:
    phase = next(phase for phase in PHASES if phase.name == name)
    check = phase.on_gpu[0].checks[1]
    machine = Machine(troubles={(name, check): trouble})
    machine.check(MINUTES)
    assert_every_check_has_one_row(machine)
    bad = [row for row in machine.rows if row.status != "pass"]
    if trouble == "crash":
        assert {(row.phase, row.check, row.status) for row in bad} == {(name, check, "fail")}
        return
    assert {row.phase for row in bad if row.check != WHOLE and row.phase in NAMES[: NAMES.index(name) + 1]} == {name}
    assert machine.statuses(name)["pass"] > 0, "what was found before is kept"
    [account] = [account for account in machine.accounts if account.phase == name]
    assert account.given_seconds is not None
    assert account.took_seconds < account.given_seconds + 60.1
    if name != NAMES[-1]:
        assert account.given_seconds <= 60 * MINUTES / 2
        assert machine.statuses(NAMES[NAMES.index(name) + 1])["pass"] > 0, "the next phase has its turn"


def test_where_everything_hangs_the_deadline_holds_and_each_phase_says_so() -> None:
    machine = Machine(troubles={(name, check): "hang" for name in NAMES for check in MEANINGS})
    machine.check(MINUTES)
    assert_every_check_has_one_row(machine)
    assert machine.now <= 1000 + 60 * MINUTES
    assert {row.status for row in machine.rows} == {"skipped"}
    assert all(row.detail for row in machine.rows)


@pytest.mark.parametrize(("minutes", "begun"), [(0, 0), (0.4, 1), (1, 2), (3, 4)])
def test_with_little_time_the_first_phases_run_and_the_others_say_what_they_need(minutes: float, begun: int) -> None:
    machine = Machine()
    machine.check(minutes)
    assert_every_check_has_one_row(machine)
    given = [account.given_seconds is not None for account in machine.accounts]
    assert sum(given[:begun]) == begun
    if not begun:
        assert machine.accounts[0].reason == "needs 20 s and 0 s are left; give more --minutes or fewer --phases"
    assert machine.now <= 1000 + 60 * minutes + 5


def test_a_slow_machine_leaves_the_last_phases_out_and_none_before_them() -> None:
    machine = Machine(pace=2.5)
    machine.check(MINUTES)
    assert_every_check_has_one_row(machine)
    passed = [name for name in NAMES if machine.statuses(name)["pass"]]
    assert passed == list(NAMES[: len(passed)])
    assert machine.now <= 1000 + 60 * MINUTES + 5


def test_going_on_runs_what_failed_or_was_skipped_and_nothing_else() -> None:
    first = Machine(troubles={("sd15", "images"): "crash", ("sdxl", "steps"): "hang"})
    first.check(MINUTES)
    lost = {row.key for row in first.rows if row.status != "pass"}
    second = Machine()
    second.check(MINUTES, kept=first.earlier())
    assert_every_check_has_one_row(second)
    assert {row.status for row in second.rows} == {"pass"}
    assert {row.key for row in second.rows[len(first.earlier().kept) :]} == lost
    assert second.processes < first.processes
    reasons = {account.phase: account.reason for account in second.accounts}
    assert reasons == dict.fromkeys(NAMES, "all of it passed before") | {"sd15": "", "sdxl": ""}


def test_a_plan_that_was_built_ahead_is_not_built_again_though_its_backend_cannot_run() -> None:
    first, second = Machine(device="cpu"), Machine(device="cpu")
    first.check(MINUTES)
    second.check(MINUTES, kept=first.earlier())
    assert second.processes == 0
    assert_every_check_has_one_row(second)
    assert next(account.reason for account in second.accounts if account.phase == "rtx") == "all of it passed before"


def test_what_goes_wrong_around_a_phase_costs_the_others_nothing() -> None:
    planned = [plan_phase(phase, about_backends("cuda"), builds_ahead=True) for phase in PHASES[:2]]
    rows: list[Row] = []

    def run(job: Job, seconds: float) -> None:
        if job.phase == "probe":
            raise OSError("no space left on device")
        rows.append(job.row("build", "pass", ""))

    run_phases(planned, until=900, clock=lambda: 0.0, run=run, tell=rows.append, account=lambda account: None)
    assert [(row.phase, row.status, row.detail) for row in rows] == [
        ("probe", "fail", "OSError: no space left on device"),
        ("digits", "pass", ""),
    ]


def test_without_a_gpu_real_sizes_say_so_and_backends_of_a_gpu_what_they_lack() -> None:
    machine = Machine(device="cpu")
    machine.check(MINUTES)
    assert_every_check_has_one_row(machine)
    about = {phase: [row for row in machine.rows if row.phase == phase] for phase in NAMES}
    for name in ("sd15", "sd21", "sdxl"):
        assert [(row.status, row.detail) for row in about[name]] == [("missing", REAL_SIZE)]
    assert {row.detail for row in about["tensorrt"]} == {"no GPU here; get one"}
    assert {(row.backend, row.device, row.check) for row in about["rtx"] if row.check != WHOLE} == {
        ("tensorrt-rtx", "sm86", "build")
    }
    assert {row.backend for row in about["ort"]} == {"onnxruntime", "openvino"}
    assert {row.model for row in about["compile"]} == {"digits"}


@pytest.mark.parametrize(
    ("left", "later", "given"),
    [
        (900, ["sdxl", "compile", "ort", "rtx", "tensorrt"], 310),  # 900 s less the 590 s of those after it
        (700, ["sdxl", "compile", "ort", "rtx", "tensorrt"], 180),  # twice its usual time
        (300, ["sdxl", "compile", "ort", "rtx", "tensorrt"], 150),  # half
        (45, ["sdxl"], 30),  # its least
        (29, ["sdxl"], None),
        (29, [], None),
        (500, [], 500),
    ],
)
def test_a_phase_gets_twice_its_usual_time_or_what_others_leave_and_at_most_half(
    left: float, later: list[str], given: float | None
) -> None:
    [sd21] = find_phases(["sd21"])
    assert phase_seconds(sd21, left, find_phases(later) if later else ()) == given


@pytest.mark.parametrize(
    ("seconds", "jobs", "limit"),
    [(600, 4, 300), (600, 1, 600), (40, 2, 20), (39, 2, None), (19, 1, None), (-5, 1, None)],
)
def test_a_job_may_take_half_of_its_phase_and_the_last_one_all(seconds: float, jobs: int, limit: float | None) -> None:
    assert job_seconds(seconds, jobs) == limit


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ([], NAMES),
        (["digits"], ("digits",)),
        (["sdxl,probe", "digits, sdxl"], ("probe", "digits", "sdxl")),
    ],
)
def test_phases_are_named_with_commas_and_run_in_order_of_evidence(given: list[str], found: Sequence[str]) -> None:
    assert tuple(phase.name for phase in find_phases(given)) == tuple(found)


def test_an_unknown_phase_is_refused_with_its_neighbour() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown phase 'sdlx' \(did you mean 'sdxl'\?\); there are probe, "):
        find_phases(["probe,sdlx"])


def test_the_command_s_help_and_the_page_name_every_phase_in_order() -> None:
    assert f"Of {', '.join(NAMES)}; " in inspect.getsource(gpu)
    lines = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8").splitlines()
    shown = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    seconds = {cells[0]: cells[2:] for cells in shown if len(cells) == 4}
    assert seconds == {phase.name: [f"{phase.least_seconds:.0f}", f"{phase.usual_seconds:.0f}"] for phase in PHASES}
    assert list(seconds) == list(NAMES)


def test_each_backend_belongs_to_one_phase_of_the_same_model_and_checks() -> None:
    for row in about_backends("cuda"):
        if row.device == "cuda":
            jobs = [job for phase in PHASES for job in plan_phase(phase, [row], builds_ahead=False).jobs]
            assert jobs, row.backend
            seen = Counter((job.model, check) for job in jobs for check in job.checks)
            assert set(seen.values()) == {1}, row.backend
