"""`deepcache-trt doctor`: which backends work here."""

import json

import typer

from deepcache_trt.commands.typed.options import AsJson
from deepcache_trt.commands.typed.output import show


def doctor(as_json: AsJson = False) -> None:
    """Tell which backends work on this machine.

    For those that do not it says what to install.
    """
    from rich.markup import escape
    from rich.table import Table

    from deepcache_trt.engines import backends

    rows = backends.probe_all()
    if as_json:
        typer.echo(json.dumps([vars(row) for row in rows], indent=2))
        return
    table = Table("backend", "device", "works", "detail")
    for row in rows:
        table.add_row(row.name, row.device, "yes" if row.works else "no", escape(row.detail))  # it may hold [cpu]
    show(table)
