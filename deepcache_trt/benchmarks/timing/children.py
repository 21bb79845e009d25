"""Processes of this package's own modules: what they inherit, and what their end is called."""

import os
import signal
from pathlib import Path


def environment() -> dict[str, str]:
    """This process's variables, with this copy of the package first and no look at the hub."""
    package = str(Path(__file__).parents[3])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}


def obituary(status: int, output: str) -> str:
    """How a process ended, with the last line that it printed; "" where it ended in order."""
    if status == 0:
        return ""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    how = (
        f"killed by signal {-status} ({signal.Signals(-status).name})" if status < 0 else f"ended with status {status}"
    )
    return f"{how}; last words: {lines[-1]}" if lines else how
