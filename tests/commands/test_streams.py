"""Where a command writes to: a terminal of few letters, and a reader that has read enough."""

import os
import subprocess
import sys

import pytest

INSPECT = [sys.executable, "-m", "deepcache_trt.cli", "inspect"]


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_terminal_without_these_letters_shows_others(encoding: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    ended = subprocess.run([*INSPECT, "--store", "/é/✓"], env=environment, capture_output=True, timeout=120)
    assert ended.returncode == 0
    assert b"is empty" in ended.stdout
    assert b"Traceback" not in ended.stderr


def test_a_reader_that_stops_reading_is_no_error() -> None:
    running = subprocess.Popen([*INSPECT, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdout is not None
    running.stdout.close()
    _, errors = running.communicate(timeout=120)
    assert (running.returncode, errors) == (0, b"")
