"""`deepcache-trt store rm`: remove artefacts by name."""

from pathlib import Path
from typing import Annotated

import typer

from deepcache_trt.commands.typed.options import StoreFolder
from deepcache_trt.errors import StoreError, UnknownNameError


def rm(
    keys: Annotated[list[str], typer.Argument(help="Keys, or how they begin, as `store ls` shows them.")],
    store: StoreFolder = None,
) -> None:
    """Remove artefacts by their keys.

    Nothing is removed unless every key names exactly one.
    """
    from deepcache_trt.engines.store import default_root
    from deepcache_trt.engines.upkeep import drop, held

    root = Path(store or default_root())
    everything = held(root)
    chosen = []
    for key in keys:
        found = [each for each in everything if key and each.key.startswith(key)]
        if len(found) != 1:
            count = "no artefact" if not found else f"{len(found)} artefacts"
            raise UnknownNameError(f"{key!r} names {count} of {root}; see deepcache-trt store ls")
        chosen += found
    for each in chosen:
        if not drop(root, each):
            raise StoreError(f"{each.kind}/{each.key} of {root} cannot be removed: it is being built, or not yours")
        typer.echo(f"{each.kind}/{each.key} {each.title}")
