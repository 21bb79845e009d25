"""The checks of `gpu_check`, in a process of their own: what ends it costs the other backends nothing.

    python -m deepcache_trt.benchmarks.gpu_check.checks.run --backend torch --device cuda --model digits --out …

What was found is written after every row, so that it survives the process.
"""

import argparse
import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch

from deepcache_trt.benchmarks.gpu_check.checks import engine_checks, probes, steps
from deepcache_trt.benchmarks.gpu_check.checks.eight_bits import eight_bits
from deepcache_trt.benchmarks.gpu_check.checks.images import images
from deepcache_trt.benchmarks.gpu_check.checks.loop import loop
from deepcache_trt.benchmarks.gpu_check.checks.refit import refit
from deepcache_trt.benchmarks.gpu_check.checks.subject import Subject
from deepcache_trt.benchmarks.gpu_check.rows import BUILD, FAIL, MEANINGS, SKIPPED, Row, write_found
from deepcache_trt.benchmarks.gpu_check.workloads import WORKLOADS
from deepcache_trt.engines.store import Store
from deepcache_trt.errors import DeepCacheError, first_line

# A check is not begun with less time than this: the process would be ended in the middle of it.
_LEAST_SECONDS = 5

_RUN: dict[str, Callable[[Subject], Iterable[Row]]] = {
    "record": probes.record,
    "compose": probes.compose,
    "switch": probes.switch,
    "failed capture": probes.failed_capture,
    "updates": probes.updates,
    "rule": probes.rule,
    "moved weights": probes.moved_weights,
    BUILD: engine_checks.build,
    "parity": engine_checks.parity,
    "cut": engine_checks.cut,
    "capture": engine_checks.capture,
    "loop": loop,
    "steps": steps.steps,
    "images": images,
    "operations": steps.operations,
    "shapes": engine_checks.shapes,
    "workspace": engine_checks.workspace,
    "refit": refit,
    "8 bits": eight_bits,
}
assert list(_RUN) == list(MEANINGS)


def run_checks(subject: Subject, names: Sequence[str], out: Path) -> None:
    """Run the checks in this order, and write all that was found to `out` after each row.

    A check may give a row again when it knows it better.
    """
    rows: dict[tuple[str, ...], Row] = {}
    obstacle = ""
    for number, name in enumerate(names):
        new: list[Row] = []
        for row in _rows_of(subject, name, obstacle):
            new.append(row)
            rows[row.key] = row
            write_found(out, rows.values(), names[:number])
        write_found(out, rows.values(), names[: number + 1])
        obstacle = obstacle or _obstacle(subject, new)


def _rows_of(subject: Subject, name: str, obstacle: str) -> Iterator[Row]:
    if subject.seconds_left < _LEAST_SECONDS:
        yield subject.row(name, SKIPPED, f"{max(subject.seconds_left, 0):.0f} s left")
    elif obstacle:
        yield subject.row(name, SKIPPED, obstacle)
    else:
        yield from _guarded(subject, name)


def _guarded(subject: Subject, name: str) -> Iterator[Row]:
    try:
        yield from _RUN[name](subject)
    except Exception as error:  # whatever a backend raises is one row
        kind = "" if isinstance(error, DeepCacheError) or not str(error) else f"{type(error).__name__}: "
        yield subject.row(name, FAIL, kind + first_line(error))
    finally:
        gc.collect()
        if subject.on_gpu and torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def _obstacle(subject: Subject, rows: Sequence[Row]) -> str:
    """Why nothing can be checked after these rows; "" where it can."""
    failed = next((row for row in rows if row.status == FAIL), None)
    if failed is None:
        return ""
    if failed.check == BUILD:
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
    parser.add_argument("--phase", default="", help="which its rows are of")
    parser.add_argument("--backend", required=True)
    parser.add_argument("--device", required=True, help="cuda, cpu, or a GPU elsewhere as sm86")
    parser.add_argument("--model", required=True, choices=WORKLOADS)
    parser.add_argument("--store", required=True, type=Path)
    parser.add_argument("--until", required=True, type=float, help="when this process will be ended, in Unix time")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("checks", nargs="+", choices=list(MEANINGS))
    options = parser.parse_args()
    quiet_libraries()
    torch.backends.cudnn.allow_tf32 = False  # the reference is float32
    subject = Subject(
        phase=options.phase,
        backend=options.backend,
        device=options.device,
        model=options.model,
        store=Store(options.store),
        until=options.until,
    )
    run_checks(subject, options.checks, options.out)


if __name__ == "__main__":
    main()
