"""`deepcache-trt store export`: what was built, as one file."""

from pathlib import Path
from typing import Annotated

import typer

from deepcache_trt.commands.typed.options import StoreFolder
from deepcache_trt.commands.typed.output import check_out
from deepcache_trt.errors import DamagedError, UnknownNameError


def export(
    model: Annotated[str, typer.Argument(help="As it was built, digits or a hub id: all of it that is here.")],
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("engines.tar"),
    store: StoreFolder = None,
) -> None:
    """Write the engines of a model into one file.

    With what they are made of. `deepcache-trt store import` takes it in on another machine of the same kind.
    """
    from deepcache_trt.engines import archive
    from deepcache_trt.engines.store import Store, default_root
    from deepcache_trt.engines.upkeep import held

    place = Store(Path(store or default_root()))
    everything = held(place.root)
    chosen = [each for each in everything if each.kind == "engines" and each.about.get("model") == model]
    if not chosen:
        known = sorted({each.about["model"] for each in everything if each.kind == "engines" and each.about})
        others = f"it has those of {', '.join(known)}" if known else "it has none"
        raise UnknownNameError(f"{place.root} has no engines of {model!r}; {others}")
    needed = {name for each in chosen for name in each.needs}
    chosen += [each for each in everything if (each.kind, each.key) in needed]
    for each in chosen:
        try:
            place.check(each.kind, each.key, thoroughly=True)
        except DamagedError as error:
            raise DamagedError(f"{each.folder}: {error}; build it again before") from error
    check_out(out)
    archive.export(chosen, out)
    typer.echo(f"{out}: {len(chosen)} artefacts, {out.stat().st_size / 1e6:.0f} MB")
