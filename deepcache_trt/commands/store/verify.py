"""`deepcache-trt store verify`: is everything what was built?"""

from pathlib import Path

import typer

from deepcache_trt.commands.typed.options import StoreFolder


def verify(store: StoreFolder = None) -> None:
    """Read every file of the store and compare it with its hash.

    Names what is damaged, which the next build replaces, and ends with 1 if anything is.
    """
    from deepcache_trt.engines.store import Store, default_root
    from deepcache_trt.engines.upkeep import held
    from deepcache_trt.errors import DamagedError
    from deepcache_trt.progress import shown

    place = Store(Path(store or default_root()))
    everything, damaged = held(place.root), []
    with shown("reading the store") as report:
        for i, each in enumerate(everything):
            report(done=i, total=len(everything), detail=each.title)
            try:
                place.check(each.kind, each.key, thoroughly=True)
            except (FileNotFoundError, DamagedError) as error:
                damaged.append(f"{each.kind}/{each.key}: {error}")
    for line in damaged:
        typer.echo(line)
    typer.echo(f"{len(everything) - len(damaged)} of {len(everything)} artefacts are whole")
    if damaged:
        raise typer.Exit(1)
