"""`deepcache-trt doctor`: what works here."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from deepcache_trt.commands.typed.options import AsJson, StoreFolder
from deepcache_trt.commands.typed.output import show, tell


def doctor(
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Draw the bundled model's picture on each backend that works.")
    ] = False,
    store: StoreFolder = None,
    as_json: AsJson = False,
) -> None:
    """Tell what works on this machine.

    Versions, backends and what to install for those that do not work, and the store; for a report of a bug.
    """
    from deepcache_trt.benchmarks.machine import environment
    from deepcache_trt.engines import backends
    from deepcache_trt.engines.store import default_root

    report: dict[str, Any] = {
        "environment": environment(),
        "backends": [vars(row) for row in backends.probe_all()],
        "store": _store(Path(store or default_root())),
        "self_test": _self_test(store) if self_test else None,
    }
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        _show(report)
    if any(not row["works"] for row in report["self_test"] or ()):
        raise typer.Exit(1)


def _store(root: Path) -> dict[str, Any]:
    from deepcache_trt.engines.backends import is_outdated
    from deepcache_trt.engines.upkeep import bytes_of, held

    found = held(root)
    return {
        "artefacts": len(found),
        "bytes": bytes_of(found),
        "damaged": [f"{each.kind}/{each.key}: {each.damage}" for each in found if each.damage],
        "outdated": [f"{each.kind}/{each.key}" for each in found if is_outdated(each.about)],
    }


def _self_test(store: Path | None) -> list[dict[str, Any]]:
    from deepcache_trt.benchmarks.self_test import self_test

    rows = []
    for drawn in self_test(store):
        tell(f"{drawn.name} on {drawn.device}: {'works' if drawn.works else 'fails'}, {drawn.detail}")
        rows.append(vars(drawn))
    return rows


def _show(report: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    facts = Table("", "", show_header=False)
    for name, value in report["environment"].items():
        facts.add_row(name, escape(value))
    held = report["store"]
    state = f"{held['artefacts']} artefacts, {held['bytes'] / 1e9:.2f} GB"
    state += "".join(f", {len(held[name])} {name}" for name in ("damaged", "outdated") if held[name])
    facts.add_row("store", state)
    table = Table("backend", "device", "works", "detail")
    for row in report["backends"]:
        table.add_row(row["name"], row["device"], "yes" if row["works"] else "no", escape(row["detail"]))
    show(facts, table)
    if report["self_test"] is not None:
        drawn = Table("backend", "device", "draws", "detail", "seconds")
        for row in report["self_test"]:
            cells = (row["name"], row["device"], "yes" if row["works"] else "no", escape(row["detail"]))
            drawn.add_row(*cells, f"{row['seconds']:.1f}")
        show(drawn)
