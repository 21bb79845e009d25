"""Comparing systems fairly: each in a process of its own, one image each in turn, while the others sleep.

A slow moment of the machine then falls on all of them, and none has the memory, the threads or the patches of another.
One that fails or dies gives its reason as its result, and the others go on.
"""

import json
import os
import re
import select
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from deepcache_trt.benchmarks.timing import children
from deepcache_trt.benchmarks.timing.worker import DRAW, LOAD
from deepcache_trt.errors import without_paths

_POLL_SECONDS = 0.1
_GOODBYE_SECONDS = 20

# Figures of /proc/<pid>/status, in kB: the most that was resident at any moment, and what of it is no file's now.
_PEAK, _ANONYMOUS = "VmHWM", "RssAnon"

# How processes tell that there was not enough memory, on the host or on a GPU; and how `Worker.prepare` does.
_NO_MEMORY = re.compile(r"out of memory|OutOfMemory|MemoryError|can't allocate memory|SIGKILL|not started: ", re.I)


@dataclass(frozen=True, kw_only=True)
class System:
    """One of those that are compared.

    Attributes:
        name: unique in a comparison.
        factory: "module:function"; called with `arguments` in the system's own process, it loads the system and returns
            what draws one image and returns its figures.
        arguments: of the factory; JSON.
        rounds: how many images it draws after the first one; when they are drawn its process ends.
        python: the interpreter of another environment for it; "": this one.
    """

    name: str
    factory: str
    arguments: Mapping[str, Any]
    rounds: int
    python: str = ""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The median of some samples, their minimum and their maximum."""

    median: float
    low: float
    high: float


def spread(samples: Sequence[float]) -> Spread:
    """The spread of at least one sample."""
    return Spread(median=statistics.median(samples), low=min(samples), high=max(samples))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a system.

    Attributes:
        name: of the system.
        error: why there is no more than the rest says; "" where there is everything.
        load_seconds: of the factory, imports included; None: it did not get that far.
        first_call_seconds: of the first image, with whatever is built or compiled at first use.
        first: the first image's figures.
        samples: the figures of each further image, its "seconds" among them, in order.
        peak_bytes: the most memory that its process held, pages of mapped files included; None: not known here.
        peak_anonymous_bytes: the most that was seen of it without those pages.
        available_bytes: the machine's free memory before it was started.
    """

    name: str
    error: str = ""
    load_seconds: float | None = None
    first_call_seconds: float | None = None
    first: Mapping[str, Any] = field(default_factory=dict)
    samples: tuple[Mapping[str, Any], ...] = ()
    peak_bytes: int | None = None
    peak_anonymous_bytes: int | None = None
    available_bytes: int | None = None

    @property
    def is_out_of_memory(self) -> bool:
        """Whether it had too little, or was killed, which is how a host that has none left says so."""
        return bool(_NO_MEMORY.search(self.error))

    def figures(self, name: str) -> list[float]:
        """One figure of each sample, in order; empty where the system did not come through."""
        return [] if self.error else [float(sample[name]) for sample in self.samples]


def take_turns(systems: Sequence[System], tell: Callable[[str], None]) -> list[Outcome]:
    """Load all systems, then let each draw one image in turn until its rounds are over.

    Args:
        systems: which; all must fit into memory together. One is not started when less memory is free than the
            largest before it has taken.
        tell: called with a line about each step.

    Returns:
        Their outcomes, in the same order.
    """
    with ExitStack() as stack:
        workers: list[Worker] = []
        for system in systems:
            worker = stack.enter_context(Worker(system))
            worker.prepare(max((other.peak_bytes or 0 for other in workers), default=0))
            tell(worker.line)
            workers.append(worker)
        for number in range(1, max(system.rounds for system in systems) + 1):
            for worker in workers:
                if worker.draws_in(number):
                    worker.draw(number)
                    tell(f"round {number}: {worker.line}")
        return [worker.outcome() for worker in workers]


class Worker:
    """A system's process. As a context manager it leaves none behind."""

    def __init__(self, system: System) -> None:
        """Nothing is started yet."""
        self.system = system
        self.error = ""
        self.line = ""  # what happened last, for a person
        self.peak_bytes: int | None = None
        self._anonymous_bytes: int | None = None
        self._available_bytes: int | None = None
        self._seconds: dict[str, float] = {}
        self._first: Mapping[str, Any] = {}
        self._samples: list[Mapping[str, Any]] = []
        self._process: subprocess.Popen[str] | None = None
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error: object) -> None:
        self._end(patience=0)
        self._errors.close()

    def prepare(self, least_bytes: int) -> None:
        """Start the process, load the system and draw the first image, if so much memory is free."""
        available = psutil.virtual_memory().available
        self._available_bytes = available
        if available < least_bytes:
            self._fail(f"not started: {_gib(available)} are free, and one before it took {_gib(least_bytes)}")
            return
        self._process = self._start()
        for order in (LOAD, DRAW):
            answer = self._ask(order)
            if answer is None:
                return
            self._seconds[order] = answer["seconds"]
            self._first = answer["figures"]
        self._tell(f"loaded in {self._seconds[LOAD]:.1f} s, first image in {self._seconds[DRAW]:.1f} s")
        self._close_after(0)

    def draws_in(self, number: int) -> bool:
        """Whether it draws in round `number`, counted from 1."""
        return not self.error and number <= self.system.rounds

    def draw(self, number: int) -> None:
        """Draw the image of a round."""
        answer = self._ask(DRAW)
        if answer is not None:
            self._samples.append({**answer["figures"], "seconds": answer["seconds"]})
            self._tell(f"{answer['seconds']:.2f} s")
            self._close_after(number)

    def outcome(self) -> Outcome:
        """What there is so far."""
        return Outcome(
            name=self.system.name,
            error=self.error,
            load_seconds=self._seconds.get(LOAD),
            first_call_seconds=self._seconds.get(DRAW),
            first=self._first,
            samples=tuple(self._samples),
            peak_bytes=self.peak_bytes,
            peak_anonymous_bytes=self._anonymous_bytes,
            available_bytes=self._available_bytes,
        )

    def _start(self) -> "subprocess.Popen[str]":
        # -P: no module of the current folder may pass for a library.
        command = [self.system.python or sys.executable, "-P", "-m", "deepcache_trt.benchmarks.timing.worker"]
        return subprocess.Popen(
            [*command, self.system.factory, json.dumps(self.system.arguments)],
            env=children.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,  # what it starts ends with it
        )

    def _ask(self, order: str) -> dict[str, Any] | None:
        """The answer to an order; None where the worker failed or died, which ends it."""
        assert self._process is not None
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(f"{order}\n")
            self._process.stdin.flush()
        line = self._answer(self._process)
        answer: dict[str, Any] = json.loads(line) if line else {}
        if line and "error" not in answer:
            return answer
        status = self._end(patience=_GOODBYE_SECONDS)
        self._errors.seek(0)
        said = answer.get("error") or children.obituary(status, self._errors.read())
        self._fail(said or "the process ended without a word")
        return None

    def _answer(self, process: "subprocess.Popen[str]") -> str:
        """The next line; "" when the process is gone. Its own children may still hold the pipe then."""
        assert process.stdout is not None
        readable: list[Any] = []
        while not readable and process.poll() is None:
            self._look_at_memory(process.pid)
            readable, _, _ = select.select([process.stdout], [], [], _POLL_SECONDS)
        self._look_at_memory(process.pid)
        readable, _, _ = select.select([process.stdout], [], [], 0)
        return process.stdout.readline() if readable else ""

    def _look_at_memory(self, process: int) -> None:
        try:
            lines = Path(f"/proc/{process}/status").read_text().splitlines()
        except OSError:  # it is gone, or the system is not Linux
            return
        fields = dict(line.split(":", 1) for line in lines)
        if _PEAK in fields:  # a process that has ended but was not waited for has no memory
            self.peak_bytes = _bytes(fields[_PEAK])
            self._anonymous_bytes = max(_bytes(fields[_ANONYMOUS]), self._anonymous_bytes or 0)

    def _close_after(self, number: int) -> None:
        if number >= self.system.rounds:
            self._end(patience=_GOODBYE_SECONDS)

    def _end(self, *, patience: float) -> int:
        """Give the process so many seconds to end in order, then kill it with everything that it started.

        Returns its status; 0 where there is none.
        """
        process, self._process = self._process, None
        if process is None:
            return 0
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with suppress(BrokenPipeError):
                process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()
        return process.returncode

    def _fail(self, reason: str) -> None:
        self.error = without_paths(" ".join(reason.split()))
        self._tell(self.error)

    def _tell(self, what: str) -> None:
        self.line = f"{self.system.name}: {what}"


def ratio(slow: Outcome, fast: Outcome, figure: str) -> Spread:
    """How many times as large a figure of one system is as another's, in each round."""
    return spread([a / b for a, b in zip(slow.figures(figure), fast.figures(figure), strict=True)])


def _bytes(kilobytes: str) -> int:
    """Of a text such as "  12 kB"."""
    return int(kilobytes.split()[0]) << 10


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
