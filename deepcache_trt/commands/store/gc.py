"""`deepcache-trt store gc`: remove what is of no use any more."""

from pathlib import Path
from typing import Annotated

import typer

from deepcache_trt.commands.typed.options import StoreFolder
from deepcache_trt.commands.typed.quantities import bytes_in, seconds_in


def gc(
    store: StoreFolder = None,
    max_size: Annotated[
        str | None, typer.Option(help="What may stay, as 50GB; what was used longest ago goes. [default: all]")
    ] = None,
    unused_for: Annotated[
        str | None, typer.Option(help="What was not used for so long goes, as 30d or 12h. [default: stays]")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Remove what is damaged or outdated, and by size or age.

    Safe beside processes that use the store. `$DEEPCACHE_TRT_STORE_GB` is a size that it keeps to by itself.
    """
    from deepcache_trt.engines.backends import is_outdated
    from deepcache_trt.engines.store import Store, default_root
    from deepcache_trt.engines.upkeep import bytes_of, collect, held

    place = Store(Path(store or default_root()))
    limits = (None if max_size is None else bytes_in(max_size), None if unused_for is None else seconds_in(unused_for))
    before = bytes_of(held(place.root))
    place.remove_abandoned()
    gone = collect(
        place.root,
        max_bytes=limits[0],
        unused_seconds=limits[1],
        is_outdated=lambda each: is_outdated(each.about),
        dry=dry_run,
    )
    count = 0
    for each in gone:
        typer.echo(f"{each.kind}/{each.key} {each.title or each.damage}")
        count += 1
    freed = before - bytes_of(held(place.root))
    typer.echo(f"{count} artefacts {'would go' if dry_run else f'are gone, {freed / 1e9:.2f} GB'}")
