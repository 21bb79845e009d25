"""`deepcache-trt experiment report`: all results as one page."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    results: Annotated[Path, typer.Option(help="A folder with results of experiments, anywhere below it.")] = Path(),
    out: Annotated[Path, typer.Option(help="The folder of the page.")] = Path("report"),
) -> None:
    """Collect the results of experiments into one page, and their numbers into one table."""
    from deepcache_trt.benchmarks.experiments.collect import FOLDER, NUMBERS, PAGE, collect

    collect(results, out)
    typer.echo(str(out / PAGE))
    typer.echo(str(out / FOLDER / NUMBERS))
