"""Running the command as a user does, and what it printed and how it ended."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Result:
    code: Any
    out: str
    err: str


Run = Callable[..., Result]


def run_process(*arguments: object) -> Result:
    command = [sys.executable, "-m", "deepcache_trt.cli", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return Result(code=ended.returncode, out=ended.stdout, err=ended.stderr)


def assert_one_line(result: Result) -> None:
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("error: ")
    assert result.err.endswith("\n")
    assert result.err.count("\n") == 1
