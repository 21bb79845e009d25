"""The checks of `gpu_check`, in a process of their own: what ends it costs the other backends nothing.

    python -m deepcache_trt.benchmarks.gpu_check.checks --backend torch --device cuda --model digits --store … --out …

Its rows are written after every check, so that what was found survives the process.
"""

import argparse
import gc
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from deepcache_trt.benchmarks.gpu_check import engine_checks, timings
from deepcache_trt.benchmarks.gpu_check.loop import loop
from deepcache_trt.benchmarks.gpu_check.refit import refit
from deepcache_trt.benchmarks.gpu_check.report import CHECKS, Row
from deepcache_trt.benchmarks.gpu_check.subject import WORKLOADS, Subject
from deepcache_trt.benchmarks.report import write_json
from deepcache_trt.engines.store import Store
from deepcache_trt.errors import DeepCacheError, first_line

# A check is not begun with less time than this: the process would be ended in the middle of it.
_LEAST_SECONDS = 5

_RUN: dict[str, Callable[[Subject], list[Row]]] = {
    "build": engine_checks.build,
    "parity": engine_checks.parity,
    "cut": engine_checks.cut,
    "capture": engine_checks.capture,
    "loop": loop,
    "steps": timings.steps,
    "images": timings.images,
    "shapes": engine_checks.shapes,
    "workspace": engine_checks.workspace,
    "refit": refit,
}
assert list(_RUN) == list(CHECKS)


def run_checks(subject: Subject, names: Sequence[str], out: Path) -> None:
    """Run the checks in this order and write all rows to `out` after each of them."""
    rows: list[Row] = []
    obstacle = ""
    for name in names:
        if subject.seconds_left < _LEAST_SECONDS:
            rows.append(subject.row(name, "skipped", f"{max(subject.seconds_left, 0):.0f} s left"))
        elif obstacle:
            rows.append(subject.row(name, "skipped", obstacle))
        else:
            new = _guarded(subject, name)
            rows += new
            obstacle = _obstacle(subject, new)
        write_json(out, [asdict(row) for row in rows])


def _guarded(subject: Subject, name: str) -> list[Row]:
    try:
        return _RUN[name](subject)
    except Exception as error:  # whatever a backend raises is one row
        kind = "" if isinstance(error, DeepCacheError) or not str(error) else f"{type(error).__name__}: "
        return [subject.row(name, False, kind + first_line(error))]
    finally:
        gc.collect()
        if subject.on_gpu and torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def _obstacle(subject: Subject, rows: Sequence[Row]) -> str:
    """Why nothing can be checked after these rows; "" where it can."""
    failed = next((row for row in rows if row.status == "fail"), None)
    if failed is None:
        return ""
    if failed.check == "build":
        return "the engines could not be built"
    try:
        if subject.on_gpu:
            torch.cuda.synchronize()
    except RuntimeError:  # an error on the GPU stays with the process
        return f"the GPU was lost in {failed.check}"
    return ""


def main() -> None:
    """Check one model on one backend."""
    from deepcache_trt.progress import quiet_libraries

    parser = argparse.ArgumentParser(description="Check one model on one backend; `gpu_check` runs this.")
    parser.add_argument("--backend", required=True)
    parser.add_argument("--device", required=True, help="cuda, cpu, or a GPU elsewhere as sm86")
    parser.add_argument("--model", required=True, choices=WORKLOADS)
    parser.add_argument("--store", required=True, type=Path)
    parser.add_argument("--until", required=True, type=float, help="when this process will be ended, in Unix time")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("checks", nargs="+", choices=list(CHECKS))
    options = parser.parse_args()
    quiet_libraries()
    torch.backends.cudnn.allow_tf32 = False  # the reference is float32
    subject = Subject(
        backend=options.backend,
        device=options.device,
        model=options.model,
        store=Store(options.store),
        until=options.until,
    )
    run_checks(subject, options.checks, options.out)


if __name__ == "__main__":
    main()
