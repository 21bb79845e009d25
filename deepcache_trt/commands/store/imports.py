"""`deepcache-trt store import`: what another machine has built."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from deepcache_trt.commands.typed.options import StoreFolder
from deepcache_trt.documents import check_plain
from deepcache_trt.errors import StoreError


def commands() -> Iterator[tuple[str, Callable[..., None]]]:
    """By its name, which Python has taken."""
    yield "store import", take_in


def take_in(
    file: Annotated[Path, typer.Argument(help="As `deepcache-trt store export` wrote it.")], store: StoreFolder = None
) -> None:
    """Take the artefacts of a file into the store.

    All of it is checked before: a file that is not whole changes nothing.
    """
    from deepcache_trt.engines import archive
    from deepcache_trt.engines.store import Store, default_root

    try:
        check_plain(file)
        for kind, key, is_new in archive.take_in(file, Store(Path(store or default_root()))):
            typer.echo(f"{kind}/{key} {'is new' if is_new else 'was there'}")
    except FileNotFoundError as error:
        raise StoreError(f"there is no file {file}") from error
    except OSError as error:
        raise StoreError(f"cannot take in {error.filename or file}: {error.strerror}; give another file") from error
