"""`deepcache-trt reuse`: what is better than plain reuse."""

from pathlib import Path
from typing import Annotated

import typer

from deepcache_trt.commands.typed.output import check_out, typed_command


def reuse(
    out: Annotated[Path, typer.Option(help="The Markdown file to write.")] = Path("reuse.md"),
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 50,
    seeds: Annotated[int, typer.Option(min=1, help="Batches of the ten digits.")] = 7,
) -> None:
    """Compare forecasts with plain reuse, on digits.

    Skipped calls too, and at every interval; each beside plain reuse that takes as long. Writes and prints Markdown.
    """
    from deepcache_trt.benchmarks.reuse import study
    from deepcache_trt.progress import quiet_libraries

    check_out(out)
    quiet_libraries()
    page = study(steps=steps, seeds=seeds, command=typed_command())
    out.write_text(page, encoding="utf-8")
    typer.echo(page)
