"""A GPU check as JSON for programs and as Markdown for people, which ends with the table that others may show."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import starmap
from pathlib import Path
from typing import Any

from deepcache_trt.benchmarks.gpu_check.rows import (
    FAIL,
    MEANINGS,
    MISSING,
    PASS,
    SKIPPED,
    STATUSES,
    SYMBOLS,
    WHOLE,
    WORKS,
    Row,
)
from deepcache_trt.benchmarks.gpu_check.schedule import Account
from deepcache_trt.benchmarks.gpu_check.summary import summary
from deepcache_trt.benchmarks.report import markdown_table, write_json

_COUNTED = {PASS: "passed", FAIL: "failed", MISSING: "missing", SKIPPED: "skipped"}


def write_report(
    stem: Path, environment: Mapping[str, Any], rows: Sequence[Row], accounts: Sequence[Account] = ()
) -> None:
    """Write `<stem>.json` and `<stem>.md`."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "environment": dict(environment),
        "phases": [account.record() for account in accounts],
        "rows": [asdict(row) for row in rows],
    }
    write_json(stem.with_name(f"{stem.name}.json"), record)
    text = markdown(environment, rows, accounts)
    stem.with_name(f"{stem.name}.md").write_text(text, encoding="utf-8")


def markdown(environment: Mapping[str, Any], rows: Sequence[Row], accounts: Sequence[Account] = ()) -> str:
    """The whole report."""
    about_backends = [row for row in rows if row.check == WORKS]
    checks = [row for row in rows if row.check not in (WORKS, WHOLE)]
    others = [row for row in rows if row.check != WORKS]
    sections = [
        f"# GPU check: {environment.get('GPU', 'unknown machine')}",
        f"Rows: {_counts(rows)}.",
        markdown_table(["", ""], [[name, value] for name, value in environment.items()]),
    ]
    for title, text in (
        ("Backends", _backends(about_backends)),
        ("Phases", _phases(accounts, rows)),
        ("Checks", _matrix(checks)),
        ("Failed", _reasons(others, (FAIL,))),
        ("Steps", _steps(checks)),
        ("Measured", _measured(checks)),
        ("Missing and skipped", _reasons(others, (MISSING, SKIPPED))),
        ("Images", summary(environment, rows)),
    ):
        if text:
            sections += [f"## {title}", text]
    return "\n\n".join(sections) + "\n"


def _counts(rows: Iterable[Row]) -> str:
    statuses = [row.status for row in rows]
    return ", ".join(f"{statuses.count(status)} {_COUNTED[status]}" for status in STATUSES)


def _backends(rows: Sequence[Row]) -> str:
    lines = [[row.backend, row.device, SYMBOLS[row.status], row.detail] for row in rows]
    return markdown_table(["backend", "device", WORKS, "version, or what it lacks"], lines)


def _phases(accounts: Sequence[Account], rows: Sequence[Row]) -> str:
    header = ["phase", "shows", "least, s", "usual, s", "given, s", "took, s", "rows", "why not"]
    lines = [
        [
            account.phase,
            account.shows,
            f"{account.least_seconds:.0f}",
            f"{account.usual_seconds:.0f}",
            "–" if account.given_seconds is None else f"{account.given_seconds:.0f}",
            "–" if account.given_seconds is None else f"{account.took_seconds:.0f}",
            _counts(row for row in rows if row.phase == account.phase),
            account.reason,
        ]
        for account in accounts
    ]
    return markdown_table(header, lines)


def _matrix(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    places = list(dict.fromkeys(row.place for row in rows))
    lines = [
        [model, f"{check}: {meaning}", *(_cell(rows, model, check, place) for place in places)]
        for model in dict.fromkeys(row.model for row in rows)
        for check, meaning in MEANINGS.items()
        if any((row.model, row.check) == (model, check) for row in rows)
    ]
    legend = "✓ passed, ✗ failed, – missing or skipped, empty: nothing to check; figures and reasons are below."
    return f"{legend}\n\n{markdown_table(['model', 'check', *places], lines)}"


def _cell(rows: Sequence[Row], model: str, check: str, place: str) -> str:
    statuses = {row.status for row in rows if (row.model, row.check, row.place) == (model, check, place)}
    return next((SYMBOLS[status] for status in (FAIL, PASS, MISSING, SKIPPED) if status in statuses), "")


def _steps(rows: Sequence[Row]) -> str:
    header = ["model", "backend", "eager full, ms", "full, ms", "shallow, ms", "full ÷ shallow", "operations allow"]
    header += ["full in a CUDA graph, ms", "shallow in a CUDA graph, ms"]
    names = ("eager_full_ms", "full_ms", "shallow_ms", "ratio")
    allowed = {row.model: row.figures["ratio"] for row in rows if (row.check, row.status) == ("operations", PASS)}
    lines = [
        [
            row.model,
            row.place,
            *(_number(row.figures.get(name)) for name in names),
            _number(allowed.get(row.model)),
            *(_number(row.figures.get(name)) for name in ("full_graph_ms", "shallow_graph_ms")),
        ]
        for row in rows
        if (row.check, row.status) == ("steps", PASS)
    ]
    return markdown_table(header, lines)


def _measured(rows: Sequence[Row]) -> str:
    tabulated = ("steps", "images")
    shown = [row for row in rows if row.status == PASS and row.detail and row.check not in tabulated]
    return markdown_table(
        ["model", "backend", "check", "result"], [[row.model, row.place, row.check, row.detail] for row in shown]
    )


def _reasons(rows: Sequence[Row], statuses: Iterable[str]) -> str:
    """One line for each reason of each backend and model, with all the checks that it is the reason of."""
    grouped: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for row in rows:
        if row.status in statuses:
            about = " ".join(filter(None, (f"**{row.place or row.phase}**", row.model)))
            settings = grouped.setdefault((about, row.status, row.detail), {}).setdefault(row.check, [])
            settings += [row.setting] if row.setting else []
    return "\n".join(
        f"- {about}: {', '.join(starmap(_named, checks.items()))} {_COUNTED[status]}: {detail}"
        for (about, status, detail), checks in grouped.items()
    )


def _named(check: str, settings: Sequence[str]) -> str:
    return f"{check} ({'; '.join(settings)})" if settings else check


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
