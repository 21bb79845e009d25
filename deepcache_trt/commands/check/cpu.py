"""`deepcache-trt check cpu`: what caching gains on this CPU."""

import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from deepcache_trt.commands.typed.options import StoreFolder
from deepcache_trt.commands.typed.output import check_out, tell


def cpu(
    out: Annotated[Path, typer.Option(help="The JSON file to write.")],
    model: Annotated[str, typer.Option(help="sd15, of real size with seeded weights, or the bundled digits.")] = "sd15",
    size: Annotated[
        int | None, typer.Option(min=8, help="Pixels, height and width. [default: 256; of digits 64]")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 20,
    repeats: Annotated[int, typer.Option(min=1, help="Timed images of each system.")] = 5,
    threads: Annotated[int | None, typer.Option(min=1, help="Of every system. [default: one for each core]")] = None,
    store: StoreFolder = None,
) -> None:
    """Measure what caching gains on this CPU.

    Our OpenVINO engines, the DeepCache package and diffusers, each in a process of its own and one image in turn; needs
    no network, and an otherwise idle machine. Writes JSON, prints Markdown, and ends with 1 where a figure is not as
    required.
    """
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # before torch is imported, here and in the workers
    from deepcache_trt.benchmarks.cpu_check.check import check, settings_of
    from deepcache_trt.engines.store import default_root

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whatever ends this ends the workers
    settings = settings_of(model, pixels=size, steps=steps, repeats=repeats)
    check_out(out)
    rows, text = check(settings, out, store or default_root(), tell)
    typer.echo(text)
    if any(row.passed is False for row in rows):
        raise typer.Exit(1)
