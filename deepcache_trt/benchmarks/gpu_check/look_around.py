"""What a machine is, and which backends work on it; in a process of its own, since asking may end it.

python -m deepcache_trt.benchmarks.gpu_check.look_around --out machine.json
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deepcache_trt.benchmarks.gpu_check.rows import WORKS, Row
from deepcache_trt.benchmarks.machine import environment
from deepcache_trt.benchmarks.report import write_json
from deepcache_trt.engines import backends


def backend_rows() -> list[Row]:
    """Which backends work here, and what to install for the others."""
    return [
        Row(
            backend=probed.name,
            device=probed.device,
            model="",
            check=WORKS,
            status="pass" if probed.works else "missing",
            detail=probed.detail,
        )
        for probed in backends.probe_all()
    ]


def builds_ahead() -> bool:
    """Whether engine plans for a GPU elsewhere can be built."""
    return any(backend.ahead is not None and backend.ahead() for backend in backends.builders_ahead())


def main() -> None:
    """Look around."""
    parser = argparse.ArgumentParser(description="Describe this machine; `gpu_check` runs this.")
    parser.add_argument("--out", required=True, type=Path)
    out = parser.parse_args().out
    facts: dict[str, Any] = {"environment": environment(), "rows": [], "builds_ahead": builds_ahead()}
    write_json(out, facts)  # the probes load every backend
    write_json(out, facts | {"rows": [asdict(row) for row in backend_rows()]})


if __name__ == "__main__":
    main()
