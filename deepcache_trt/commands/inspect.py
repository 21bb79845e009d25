"""`deepcache-trt inspect`: what the store holds."""

import json

import typer

from deepcache_trt.commands.typed.options import AsJson, StoreFolder
from deepcache_trt.commands.typed.output import show


def inspect(store: StoreFolder = None, as_json: AsJson = False) -> None:
    """List what the store holds.

    Graphs with their taps, engines with their shapes, sizes and operations.
    """
    from deepcache_trt.benchmarks.counting.inventory import inventory, inventory_tables
    from deepcache_trt.engines.store import Store, default_root

    held = inventory(Store(store or default_root()))
    if as_json:
        typer.echo(json.dumps(held, indent=2))
    else:
        show(*inventory_tables(held))
