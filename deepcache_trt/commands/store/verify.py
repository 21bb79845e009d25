"""`deepcache-trt store verify`: is everything what was built?"""

from pathlib import Path

import typer

from deepcache_trt.commands.typed.options import StoreFolder


def verify(store: StoreFolder = None) -> None:
    """Read every file of the store and compare it with its hash.

    Names what is damaged and removes it, so that the next build replaces it; ends with 1 if anything is.
    """
    from deepcache_trt.engines import caches
    from deepcache_trt.engines.store import Store, default_root
    from deepcache_trt.engines.upkeep import drop, held
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
                gone = "removed" if drop(place.root, each) else "cannot be removed, delete it"
                damaged.append(f"{each.kind}/{each.key}: {error} ({gone})")
    whole = len(everything) - len(damaged)
    for file in caches.kept(place.root):
        if not caches.is_sealed(file, thoroughly=True):
            caches.discard(file)
            damaged.append(f"{file.relative_to(place.root)}: it is not what was written there (removed)")
    for line in damaged:
        typer.echo(line)
    typer.echo(f"{whole} of {len(everything)} artefacts are whole")
    if damaged:
        raise typer.Exit(1)
