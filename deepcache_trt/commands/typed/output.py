"""What commands print."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import typer

from deepcache_trt.errors import DeepCacheError

_WIDEST = 1000


def tell(line: str) -> None:
    """A line about what goes on, beside the output."""
    typer.echo(line, err=True)


def check_out(out: Path) -> None:
    """Refuse a file that cannot be written, before anything is measured for it; its folder is there afterwards.

    Raises:
        DeepCacheError: there can be no such file.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=out.parent).close()
    except OSError as error:
        raise DeepCacheError(f"cannot write {out}: {error.strerror}; choose another --out") from error
    if out.is_dir():
        raise DeepCacheError(f"cannot write {out}: it is a folder; choose another --out")
    if out.exists() and not out.is_file():  # files are written beside and put in its place, which would end a device
        raise DeepCacheError(f"cannot write {out}: it is a pipe or a device; choose another --out")


def typed_command() -> str:
    """The command that runs, as reports print it: they are published, so paths are cut down to their last part."""
    from deepcache_trt.errors import without_paths

    return without_paths(shlex.join(["deepcache-trt", *sys.argv[1:]]))


def show(*renderables: Any) -> None:
    """Print tables of rich, or text."""
    from rich.console import Console

    console = Console()
    for renderable in renderables:
        console.print(renderable)


def print_table(header: Sequence[str], lines: Sequence[Sequence[str]], *, title: str, words: int = 1) -> None:
    """Print a table, on a narrow terminal too as wide as it is: what is cut off is of no use.

    Args:
        header: of the columns.
        lines: of cells.
        title: above it.
        words: how many columns from the left are words; the others are numbers.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title)
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i < words else "right", no_wrap=True)
    for line in lines:
        table.add_row(*map(escape, line))
    console = Console()
    console.width = max(console.width, Console(width=_WIDEST).measure(table).maximum)
    console.print(table)
