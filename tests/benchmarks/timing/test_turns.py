"""Systems take turns in processes of their own; what becomes of one costs the others nothing."""

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from deepcache_trt.benchmarks.timing.turns import Outcome, Spread, System, spread, take_turns
from tests.benchmarks.timing.fake_system import fake


def run(*systems: System) -> list[Outcome]:
    return take_turns(systems, lambda line: None)


def is_running(process: int) -> bool:
    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def soon(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + 10
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)
    return condition()


def test_all_are_loaded_then_each_draws_in_turn_and_ends_after_its_last_round(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    lines: list[str] = []
    systems = fake("a", rounds=3, diary=diary), fake("b", rounds=1, diary=diary), fake("c", rounds=0, diary=diary)
    outcomes = take_turns(systems, lines.append)
    assert diary.read_text().splitlines() == [
        *("a draws 1", "b draws 1", "c draws 1", "c ended"),
        *("a draws 2", "b draws 2", "b ended"),
        *("a draws 3", "a draws 4", "a ended"),
    ]
    assert [outcome.name for outcome in outcomes] == ["a", "b", "c"]
    assert [outcome.error for outcome in outcomes] == [""] * 3
    assert [outcome.first["drawn"] for outcome in outcomes] == [1, 1, 1]
    assert [outcome.figures("drawn") for outcome in outcomes] == [[2, 3, 4], [2], []]
    assert all(seconds > 0 for seconds in outcomes[0].figures("seconds"))
    assert lines[0].startswith("a: loaded in 0.")
    assert lines[3].startswith("round 1: a: 0.")
    assert len(lines) == 3 + 4


def test_what_libraries_print_is_no_answer_and_orders_are_not_theirs_to_read() -> None:
    (outcome,) = run(fake("loud", rounds=1, acts=["print", "print", "print"]))
    assert (outcome.error, outcome.figures("drawn")) == ("", [2])


@pytest.mark.parametrize("when", [0, 1, 2], ids=["loading", "first image", "second image"])
@pytest.mark.parametrize(
    ("act", "reason"),
    [
        ("fail", "ValueError: no such thing in …/store"),
        ("abort", "killed by signal 6 (SIGABRT); last words: out of memory"),
    ],
)
def test_one_that_fails_or_dies_says_why_and_the_others_go_on(when: int, act: str, reason: str) -> None:
    broken, whole = run(fake("broken", rounds=2, acts=[""] * when + [act]), fake("whole", rounds=2))
    assert broken.error == reason
    assert (broken.load_seconds is None, broken.first_call_seconds is None) == (when == 0, when < 2)
    assert broken.samples == ()
    assert (whole.error, whole.figures("drawn")) == ("", [2, 3])


def test_what_was_measured_before_a_failure_is_kept_and_no_figure() -> None:
    (outcome,) = run(fake("broken", rounds=3, acts=["", "", "", "fail"]))
    assert [sample["drawn"] for sample in outcome.samples] == [2]
    assert outcome.figures("drawn") == []


@pytest.mark.parametrize("last", ["", "abort"])
def test_what_a_worker_started_ends_with_it(tmp_path: Path, last: str) -> None:
    diary = tmp_path / "diary"
    run(fake("parent", rounds=1, diary=diary, acts=["start child", "", last]))
    child = int(diary.read_text().splitlines()[0].rsplit(" ", 1)[1])
    assert soon(lambda: not is_running(child))


def test_peak_memory_is_that_of_the_worker() -> None:
    small, large = run(fake("small"), fake("large", acts=["", "take memory"]))
    assert small.peak_bytes is not None
    assert large.peak_bytes is not None
    assert small.peak_anonymous_bytes is not None
    assert large.peak_anonymous_bytes is not None
    assert large.peak_bytes > small.peak_bytes + (200 << 20)
    assert large.peak_bytes > large.peak_anonymous_bytes > small.peak_anonymous_bytes + (200 << 20)
    assert large.available_bytes is not None


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's allocator")
def test_freed_memory_is_used_again(tmp_path: Path) -> None:
    """Else what a process happens to free first decides how fast it is."""
    run(fake("idle", diary=tmp_path / "diary", acts=["", "reuse memory"]))
    (line,) = (line for line in (tmp_path / "diary").read_text().splitlines() if "asked for" in line)
    assert int(line.split()[3]) < 1000


def test_what_would_not_fit_beside_the_others_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([8 << 30, 1 << 20, 8 << 30])
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=next(free)))
    first, second, third = run(fake("first"), fake("second"), fake("third"))
    assert second.error.startswith("not started: 0.0 GiB are free, and one before it took ")
    assert (second.load_seconds, second.peak_bytes, second.available_bytes) == (None, None, 1 << 20)
    assert [first.error, third.error] == ["", ""]


_COMPARISON = """
import sys
from pathlib import Path
from deepcache_trt.benchmarks.timing.turns import take_turns
from tests.benchmarks.timing.fake_system import fake
idle = fake("idle", diary=Path(sys.argv[1]), acts=["start child"])
take_turns([idle, fake("busy", diary=Path(sys.argv[1]), acts=["", "hang"])], print)
"""


@pytest.mark.parametrize(
    ("sent", "left"), [(signal.SIGINT, []), (signal.SIGKILL, ["busy", "child"])], ids=["ctrl-c", "killed"]
)
def test_no_worker_outlives_the_comparison(tmp_path: Path, sent: signal.Signals, left: list[str]) -> None:
    """One that is drawing when the comparison itself is killed draws to the end."""
    diary = tmp_path / "diary"
    diary.touch()
    parent = subprocess.Popen(
        [sys.executable, "-c", _COMPARISON, str(diary)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert soon(lambda: "hangs" in diary.read_text())
    words = [line.split() for line in diary.read_text().splitlines()]
    found = {"child": int(words[0][-1]), "busy": int(words[-1][-1])}
    found["idle"] = psutil.Process(found["child"]).ppid()
    parent.send_signal(sent)
    try:
        parent.wait(10)
        assert soon(lambda: [name for name in ("busy", "child", "idle") if is_running(found[name])] == left)
    finally:
        parent.kill()
        parent.wait()
        for name in left:
            os.kill(found[name], signal.SIGKILL)


def test_a_spread_is_the_median_between_the_extremes() -> None:
    assert spread([4.0, 1.0, 2.0, 9.0]) == Spread(median=3.0, low=1.0, high=9.0)
