"""What is found: rows, and what a process that finds some leaves on disk."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deepcache_trt.benchmarks.report import write_json
from deepcache_trt.errors import without_paths

PASS, FAIL, MISSING, SKIPPED = STATUSES = ("pass", "fail", "missing", "skipped")

# What a row is about that is about no check: a backend itself, whatever the model; a phase that did not run.
WORKS, WHOLE = "works here", "phase"

# The checks of the runtime under the engines.
PROBES = {
    "record": "a recorded unit computes with what is in memory now",
    "compose": "recorded units in three orders compute what they compute one by one",
    "switch": "a number on the GPU says which branch of a graph runs",
    "failed capture": "after a capture that fails, memory can be given back and recorded in again",
    "updates": "nine combinations of sizes, schedulers and guidance in one process",
    "rule": "images by a rule, decided on the GPU as they were by the host",
    "moved weights": "weights that move between images are followed",
}

# Those of each model on each backend, in the order of their worth.
BUILD = "build"
CHECKS = {
    BUILD: "the full and the shallow engine",
    "parity": "both compute what torch computes in float32",
    "cut": "a cached step on the tap of the same full step is that step",
    "capture": "a replayed CUDA graph reads the new inputs",
    "loop": "the recorded loop draws what the pipeline's own loop draws",
    "steps": "timed, eager torch beside them",
    "images": "timed, plain diffusers and the DeepCache package beside them",
    "operations": "counted, and what the roofline of the GPU allows them",
    "shapes": "parity at two sizes in turn",
    "workspace": "both engines on one scratch memory",
    "refit": "other weights in the same engines, and back",
    "8 bits": "engines with every layer in 8 bits, timed beside these, and how near they are",
}
MEANINGS = PROBES | CHECKS

SYMBOLS = {PASS: "✓", FAIL: "✗", MISSING: "–", SKIPPED: "–"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One check of one backend.

    Attributes:
        phase: which phase asked for it; "" for what was found before the first one.
        backend: as `deepcache-trt doctor` names it.
        device: "cuda", "cpu", or the GPU elsewhere that was built for, as "sm86".
        model: what was checked on it; "" where the row is about the backend itself.
        check: which check.
        setting: which of several things that a check measures; "" where it is one.
        status: "pass"; "fail"; "missing": there is nothing to check here; "skipped": it was not tried.
        figures: what was measured, by name with its unit; None for what is no finite number, which JSON lacks.
        detail: the same for a person, or the reason and the cure. Paths are cut down to their last part.
    """

    phase: str = ""
    backend: str
    device: str
    model: str
    check: str
    setting: str = ""
    status: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    detail: str = ""

    def __post_init__(self) -> None:
        assert self.status in STATUSES, self.status
        object.__setattr__(self, "detail", without_paths(" ".join(self.detail.split())))
        object.__setattr__(self, "figures", _without_nan(self.figures))

    @property
    def place(self) -> str:
        """The backend with its device; "" where the row is about no backend."""
        return f"{self.backend} ({self.device})" if self.backend else ""

    @property
    def key(self) -> tuple[str, ...]:
        """What it is about: of two rows about the same the later one counts."""
        return (*self.check_key, self.setting)

    @property
    def check_key(self) -> tuple[str, ...]:
        """The check that it is of."""
        return self.phase, self.backend, self.device, self.model, self.check

    def __str__(self) -> str:
        name = " ".join(filter(None, (self.phase, self.place, self.model, self.check, self.setting)))
        return f"{SYMBOLS[self.status]} {name}: {self.detail or self.status}"


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nan(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a process has found so far.

    Attributes:
        rows: in order; those of the last check may not be all.
        done: the checks that are over.
    """

    rows: tuple[Row, ...] = ()
    done: tuple[str, ...] = ()


def write_found(out: Path, rows: Iterable[Row], done: Iterable[str]) -> None:
    """Leave what was found on disk, for `read_found`."""
    write_json(out, {"rows": [asdict(row) for row in rows], "done": list(done)})


def read_found(out: Path) -> Found:
    """What a process has left; nothing where it has not written yet."""
    try:
        record = json.loads(out.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Found()
    return Found(rows=tuple(Row(**data) for data in record["rows"]), done=tuple(record["done"]))
