"""A system for `turns` that does what a test wants of it; it runs in a worker's process."""

import atexit
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deepcache_trt.benchmarks.timing.turns import System


def fake(name: str, *, rounds: int = 1, diary: Path | None = None, acts: Sequence[str] = ()) -> System:
    """A system that does one of `acts` when it is loaded, then one for each image; "" or none left: nothing."""
    arguments = {"name": name, "diary": str(diary or os.devnull), "acts": list(acts)}
    return System(name=name, factory="tests.benchmarks.timing.fake_system:load", arguments=arguments, rounds=rounds)


def load(name: str, diary: str, acts: Sequence[str]) -> Callable[[], Mapping[str, Any]]:
    remaining = iter(acts)

    def note(event: str) -> None:
        with open(diary, "a") as file:
            file.write(f"{name} {event}\n")

    atexit.register(note, "ended")
    _ACTS[next(remaining, "")](note)
    drawn = 0

    def draw() -> Mapping[str, Any]:
        nonlocal drawn
        drawn += 1
        note(f"draws {drawn}")
        _ACTS[next(remaining, "")](note)
        return {"drawn": drawn, "loop_seconds": float(drawn)}

    return draw


Note = Callable[[str], None]


def _fail(note: Note) -> None:
    raise ValueError("no such thing\nin /home/ann/store")


def _run_out_of_memory(note: Note) -> None:
    raise MemoryError("no 8 GiB left")


def _abort(note: Note) -> None:
    print("out of", "memory", file=sys.stderr)
    os.abort()


def _print(note: Note) -> None:
    print('{"error": "from print"}', flush=True)
    os.write(1, b'{"error": "from a library"}\n')
    subprocess.run(["sh", "-c", "cat; echo from a child"], check=True, timeout=5)
    assert sys.stdin.read() == ""


def _take_memory(note: Note) -> None:
    taken = bytearray(b"x") * (256 << 20)
    time.sleep(0.4)
    del taken


def _reuse_memory(note: Note) -> None:
    """Notes for how many pages of what it takes for the second time the system had to be asked."""
    for _ in range(2):
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        taken = [bytearray(b"x") * (16 << 20) for _ in range(4)]
        del taken
    note(f"asked for {resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults} pages")


def _start_child(note: Note) -> None:
    note(f"has child {subprocess.Popen(['sleep', '600']).pid}")


def _hang(note: Note) -> None:
    note(f"hangs {os.getpid()}")
    time.sleep(600)


_ACTS: dict[str, Callable[[Note], None]] = {
    "": lambda note: None,
    "fail": _fail,
    "run out of memory": _run_out_of_memory,
    "abort": _abort,
    "print": _print,
    "take memory": _take_memory,
    "reuse memory": _reuse_memory,
    "start child": _start_child,
    "hang": _hang,
}
