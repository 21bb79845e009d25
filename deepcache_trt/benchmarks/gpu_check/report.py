"""What a GPU check found: its rows, kept as JSON for programs and as Markdown for people."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deepcache_trt.benchmarks.report import markdown_table, without_paths, write_json

STATUSES = ("pass", "fail", "missing", "skipped")

# The check that is about a backend itself, whatever the model; those of each model, in the order of their worth.
WORKS, BUILD = "works here", "build"
CHECKS = {
    BUILD: "the full and the shallow engine",
    "parity": "both compute what torch computes in float32",
    "cut": "a cached step on the tap of the same full step is that step",
    "capture": "a replayed CUDA graph reads the new inputs",
    "loop": "the recorded loop draws what the pipeline's own loop draws",
    "steps": "timed, eager torch beside them",
    "images": "timed, plain diffusers and the DeepCache package beside them",
    "shapes": "parity at two sizes in turn",
    "workspace": "both engines on one scratch memory",
    "refit": "other weights in the same engines, and back",
}

_SYMBOLS = {"pass": "✓", "fail": "✗", "missing": "–", "skipped": "–"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One check of one backend.

    Attributes:
        backend: as `deepcache-trt doctor` names it.
        device: "cuda", "cpu", or the GPU elsewhere that was built for, as "sm86".
        model: what was checked on it; "" where the row is about the backend itself.
        check: which check.
        status: "pass"; "fail"; "missing": there is nothing to check here; "skipped": it was not tried.
        figures: what was measured, by name with its unit; None for what is no finite number, which JSON lacks.
        detail: the same for a person, or the reason and the cure. Paths are cut down to their last part.
    """

    backend: str
    device: str
    model: str
    check: str
    status: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    detail: str = ""

    def __post_init__(self) -> None:
        assert self.status in STATUSES, self.status
        object.__setattr__(self, "detail", without_paths(" ".join(self.detail.split())))
        object.__setattr__(self, "figures", _without_nan(self.figures))

    @property
    def place(self) -> str:
        """The backend with its device."""
        return f"{self.backend} ({self.device})"

    def __str__(self) -> str:
        name = " ".join(filter(None, (self.place, self.model, self.check)))
        return f"{_SYMBOLS[self.status]} {name}: {self.detail or self.status}"


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nan(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_rows(path: Path) -> list[Row]:
    """The rows that `write_json` was given as dictionaries; none where there is no file yet."""
    try:
        return [Row(**data) for data in json.loads(path.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []


def write_report(stem: Path, environment: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Write `<stem>.json` and `<stem>.md`."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    record = {"environment": dict(environment), "rows": [asdict(row) for row in rows]}
    write_json(stem.with_name(f"{stem.name}.json"), record)
    text = markdown(environment, rows)
    stem.with_name(f"{stem.name}.md").write_text(text, encoding="utf-8")


def markdown(environment: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """The whole report."""
    counts = ", ".join(f"{sum(row.status == status for row in rows)} {_COUNTED[status]}" for status in STATUSES)
    about_backends = [row for row in rows if row.check == WORKS]
    checks = [row for row in rows if row.check != WORKS]
    sections = [
        f"# GPU check: {environment.get('GPU', 'unknown machine')}",
        f"Rows: {counts}.",
        markdown_table(["", ""], [[name, value] for name, value in environment.items()]),
    ]
    for title, text in (
        ("Backends", _backends(about_backends)),
        ("Checks", _matrix(checks)),
        ("Failed", _reasons(checks, ("fail",))),
        ("Steps", _steps(checks)),
        ("Images", _images(checks)),
        ("Measured", _measured(checks)),
        ("Missing and skipped", _reasons(checks, ("missing", "skipped"))),
    ):
        if text:
            sections += [f"## {title}", text]
    return "\n\n".join(sections) + "\n"


_COUNTED = {"pass": "passed", "fail": "failed", "missing": "missing", "skipped": "skipped"}


def _backends(rows: Sequence[Row]) -> str:
    lines = [[row.backend, row.device, _SYMBOLS[row.status], row.detail] for row in rows]
    return markdown_table(["backend", "device", WORKS, "version, or what it lacks"], lines)


def _matrix(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    places = list(dict.fromkeys(row.place for row in rows))
    lines = [
        [model, f"{check}: {meaning}", *(_cell(rows, model, check, place) for place in places)]
        for model in dict.fromkeys(row.model for row in rows)
        for check, meaning in CHECKS.items()
    ]
    legend = "✓ passed, ✗ failed, – missing or skipped, empty: nothing to check; figures and reasons are below."
    return f"{legend}\n\n{markdown_table(['model', 'check', *places], lines)}"


def _cell(rows: Sequence[Row], model: str, check: str, place: str) -> str:
    statuses = {row.status for row in rows if (row.model, row.check, row.place) == (model, check, place)}
    return next((_SYMBOLS[status] for status in ("fail", "pass", "missing", "skipped") if status in statuses), "")


def _steps(rows: Sequence[Row]) -> str:
    header = ["model", "backend", "eager full, ms", "full, ms", "shallow, ms", "full ÷ shallow", "ideal by MACs"]
    header += ["full in a CUDA graph, ms", "shallow in a CUDA graph, ms"]
    names = ("eager_full_ms", "full_ms", "shallow_ms", "ratio", "ideal_ratio", "full_graph_ms", "shallow_graph_ms")
    lines = [
        [row.model, row.place, *(_number(row.figures.get(name)) for name in names)]
        for row in rows
        if row.check == "steps" and row.status == "pass"
    ]
    return markdown_table(header, lines)


def _images(rows: Sequence[Row]) -> str:
    header = ["model", "backend", "setting", "s/image", "speed-up", "PSNR against plain, dB"]
    lines = [
        [
            row.model,
            row.place,
            row.figures["setting"],
            _number(row.figures["seconds"]),
            f"{row.figures['speedup']:.2f}×",
            "identical" if row.figures["identical"] else f"{row.figures['psnr_db']:.1f}",
        ]
        for row in rows
        if row.check == "images" and row.status == "pass"
    ]
    return markdown_table(header, lines)


def _measured(rows: Sequence[Row]) -> str:
    tabulated = ("steps", "images")
    shown = [row for row in rows if row.status == "pass" and row.detail and row.check not in tabulated]
    return markdown_table(
        ["model", "backend", "check", "result"], [[row.model, row.place, row.check, row.detail] for row in shown]
    )


def _reasons(rows: Sequence[Row], statuses: Iterable[str]) -> str:
    """One line for each reason of each backend and model, with all the checks that it is the reason of."""
    grouped: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        if row.status in statuses:
            grouped.setdefault((row.place, row.model, row.status, row.detail), []).append(row.check)
    return "\n".join(
        f"- **{place}** {model}: {', '.join(dict.fromkeys(checks))} {_COUNTED[status]}: {detail}"
        for (place, model, status, detail), checks in grouped.items()
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
