"""The phases of a check, in order of evidence: what each shows, how long it takes, and the jobs that it comes to."""

import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepcache_trt.benchmarks.gpu_check.rows import BUILD, CHECKS, MISSING, PROBES, WHOLE, WORKS, Row
from deepcache_trt.engines import backends
from deepcache_trt.engines.backend import Backend
from deepcache_trt.errors import UnknownNameError, did_you_mean

# The GPU that engine plans are built ahead for where there is none: an RTX A5000.
_AHEAD_TARGET = "sm86"

REAL_SIZE = "a model of real size is checked on a GPU only"


@dataclass(frozen=True, kw_only=True)
class Task:
    """The checks of one model."""

    model: str
    checks: tuple[str, ...]


_DIGITS = Task(model="digits", checks=tuple(CHECKS))
_TIMED = ("steps", "images", "operations")
_SD15 = Task(model="sd15", checks=(BUILD, "parity", "steps", "images", "8 bits"))


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of the check that is worth its time by itself.

    Attributes:
        name: what users call it.
        shows: for a person, what is known after it.
        least_seconds: with fewer it is not begun.
        usual_seconds: what it takes on a GPU of these days; with fewer its checks repeat less, and then leave settings
            out.
        takes: whether a backend belongs to it.
        on_gpu: what is checked on each of its backends, the cheapest first.
        on_cpu: the same where there is no GPU; none: it needs one.
    """

    name: str
    shows: str
    least_seconds: float
    usual_seconds: float
    takes: Callable[[Backend], bool]
    on_gpu: tuple[Task, ...]
    on_cpu: tuple[Task, ...] = ()


def _is_reference(backend: Backend) -> bool:
    return backend.runs_model and backend.bit_exact


def _is_torch_compiler(backend: Backend) -> bool:
    return backend.runs_model and not backend.bit_exact


def _builds_ahead(backend: Backend) -> bool:
    return backend.ahead is not None


def _builds_on_its_gpu(backend: Backend) -> bool:
    return backend.compiled and backend.device == "cuda" and not _builds_ahead(backend)


def _reads_graphs(backend: Backend) -> bool:
    """Whatever is none of the others, those of other packages too."""
    return not (backend.runs_model or _builds_ahead(backend) or _builds_on_its_gpu(backend))


PHASES = (
    Phase(
        name="probe",
        shows="whether the runtime under the engines does here what it does on its doubles",
        least_seconds=20,
        usual_seconds=50,
        takes=_is_reference,
        on_gpu=(Task(model="digits", checks=tuple(PROBES)),),
        on_cpu=(Task(model="digits", checks=tuple(PROBES)),),
    ),
    Phase(
        name="digits",
        shows="every check, on the reference and a small model of real weights",
        least_seconds=20,
        usual_seconds=60,
        takes=_is_reference,
        on_gpu=(_DIGITS,),
        on_cpu=(_DIGITS,),
    ),
    Phase(
        name="sd15",
        shows="SD1.5 at 512², 50 steps: eager, the package and ours, per step and as one graph",
        least_seconds=30,
        usual_seconds=110,
        takes=_is_reference,
        on_gpu=(Task(model="sd15", checks=_TIMED),),
    ),
    Phase(
        name="sd21",
        shows="SD2.1 at 512², batch 1, in the settings of the published table",
        least_seconds=30,
        usual_seconds=90,
        takes=_is_reference,
        on_gpu=(Task(model="sd21", checks=_TIMED),),
    ),
    Phase(
        name="sdxl",
        shows="SDXL at 1024², 20 and 30 steps",
        least_seconds=45,
        usual_seconds=180,
        takes=_is_reference,
        on_gpu=(Task(model="sdxl", checks=_TIMED),),
    ),
    Phase(
        name="compile",
        shows="what torch's compiler makes of the variants",
        least_seconds=60,
        usual_seconds=130,
        takes=_is_torch_compiler,
        on_gpu=(Task(model="sd15", checks=_TIMED[:2]),),
        on_cpu=(_DIGITS,),
    ),
    Phase(
        name="ort",
        shows="the backends that read graphs, ONNX Runtime first of all",
        least_seconds=30,
        usual_seconds=100,
        takes=_reads_graphs,
        on_gpu=(_DIGITS, _SD15),
        on_cpu=(_DIGITS,),
    ),
    Phase(
        name="rtx",
        shows="engine plans that can be built ahead for another GPU",
        least_seconds=30,
        usual_seconds=90,
        takes=_builds_ahead,
        on_gpu=(_DIGITS, _SD15),
        on_cpu=(_DIGITS,),
    ),
    Phase(
        name="tensorrt",
        shows="engine plans that are built on the GPU that runs them",
        least_seconds=30,
        usual_seconds=90,
        takes=_builds_on_its_gpu,
        on_gpu=(_DIGITS, _SD15),
        on_cpu=(_DIGITS,),
    ),
)


def find_phases(names: Sequence[str]) -> tuple[Phase, ...]:
    """The phases of these names, in order of evidence; none: all.

    Args:
        names: one or several in each, with commas between.

    Raises:
        UnknownNameError: no such phase.
    """
    known = [phase.name for phase in PHASES]
    wanted = [name.strip() for several in names for name in several.split(",")]
    for name in wanted:
        if name not in known:
            raise UnknownNameError(f"unknown phase {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}")
    return tuple(phase for phase in PHASES if not names or phase.name in wanted)


@dataclass(frozen=True, kw_only=True)
class Job:
    """Checks of one model on one backend, for one process; `device` is as in a row."""

    phase: str
    backend: str
    device: str
    model: str
    checks: tuple[str, ...]

    def row(self, check: str, status: str, detail: str) -> Row:
        """A row about a check that gave none of its own."""
        return Row(
            phase=self.phase,
            backend=self.backend,
            device=self.device,
            model=self.model,
            check=check,
            status=status,
            detail=detail,
        )

    def command(self, store: Path, checks: Sequence[str], out: Path, until: float) -> list[str]:
        """What runs some of its checks; -P: no module of the current folder may pass for a library."""
        where = ["--phase", self.phase, "--backend", self.backend, "--device", self.device, "--model", self.model]
        limits = ["--store", str(store), "--out", str(out), "--until", f"{until:.0f}"]
        return [sys.executable, "-P", "-m", "deepcache_trt.benchmarks.gpu_check.checks.run", *where, *limits, *checks]


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A phase on this machine.

    Attributes:
        phase: which.
        jobs: what is to be run, in order.
        rows: what there is no job for, with the reasons.
        is_kept: whether there would be jobs, had not all their checks passed before.
    """

    phase: Phase
    jobs: tuple[Job, ...]
    rows: tuple[Row, ...] = ()
    is_kept: bool = False


def plan_phase(
    phase: Phase, about_backends: Sequence[Row], *, builds_ahead: bool, passed: Collection[tuple[str, ...]] = ()
) -> Planned:
    """The jobs that a phase comes to on this machine.

    Args:
        phase: which.
        about_backends: what works here and what does not; with a GPU among them the CPU is not checked.
        builds_ahead: whether engine plans for a GPU elsewhere can be built.
        passed: the checks, as `Row.check_key`, that need not run again.
    """
    device = "cuda" if any(row.device == "cuda" and row.status != MISSING for row in about_backends) else "cpu"
    tasks = phase.on_gpu if device == "cuda" else phase.on_cpu
    if not tasks:
        return Planned(phase=phase, jobs=(), rows=(_about(phase, MISSING, REAL_SIZE),))
    found = {(row.backend, row.device): row for row in about_backends if row.check == WORKS}
    own = sorted(filter(phase.takes, backends.every()), key=lambda backend: backend.compiled)  # the quick ones first
    places: list[tuple[str, str]] = []
    rows: list[Row] = []
    for backend in own:
        row = found.get((backend.name, backend.device))
        if row is None or (row.device != device and any(each.device == device for each in own)):
            continue
        if row.status == MISSING:
            rows.append(_about(phase, MISSING, row.detail, row.backend, row.device))
        else:
            places.append((row.backend, row.device))
    if not places and builds_ahead and any(map(_builds_ahead, own)):
        places = [(next(filter(_builds_ahead, own)).name, _AHEAD_TARGET)]
    jobs = [_job(phase, place, task, passed) for task in tasks for place in places]
    left = tuple(job for job in jobs if job.checks)
    return Planned(phase=phase, jobs=left, rows=tuple(rows), is_kept=bool(jobs) and not left)


def _job(phase: Phase, place: tuple[str, str], task: Task, passed: Collection[tuple[str, ...]]) -> Job:
    """Of what is built for a GPU elsewhere nothing can be run."""
    checks = (BUILD,) if place[1] == _AHEAD_TARGET else task.checks
    left = tuple(check for check in checks if (phase.name, *place, task.model, check) not in passed)
    return Job(phase=phase.name, backend=place[0], device=place[1], model=task.model, checks=left)


def _about(phase: Phase, status: str, reason: str, backend: str = "", device: str = "") -> Row:
    return Row(phase=phase.name, backend=backend, device=device, model="", check=WHOLE, status=status, detail=reason)


def skipped(phase: Phase, reason: str) -> Row:
    """The row of a phase that is not run."""
    return _about(phase, "skipped", reason)


def failed(phase: Phase, reason: str) -> Row:
    """The row of a phase that ended before its checks did."""
    return _about(phase, "fail", reason)
