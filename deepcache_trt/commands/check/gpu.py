"""`deepcache-trt check gpu`: which backends work here, what they compute and how fast."""

import signal
from pathlib import Path
from typing import Annotated

import typer

from deepcache_trt.commands.typed.output import check_out, tell, typed_command
from deepcache_trt.errors import DeepCacheError


def gpu(
    out: Annotated[Path, typer.Option(help="Writes FILE.json and FILE.md.", metavar="FILE")],
    minutes: Annotated[float, typer.Option(min=0, help="For everything; what no longer fits is skipped.")] = 15,
    phases: Annotated[
        list[str] | None,
        typer.Option(
            help="Of probe, digits, sd15, sd21, sdxl, compile, ort, rtx, tensorrt; several with commas, in this order. "
            "[default: all]"
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="The JSON of an earlier check: keep what passed and run again what failed or was skipped.",
            metavar="FILE",
        ),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option("--store", help="Where graphs and engines are taken from and kept. [default: a temporary folder]"),
    ] = None,
) -> None:
    """Check and time every backend of this machine, in phases.

    What tells the most comes first, and the report ends with a table of what was measured. What does not work is named
    with the reason. The checks of a model on a backend share a process, so that one that crashes costs only its own
    rows; needs no network. Without a GPU the backends of the CPU are checked. Ends with 1 where a check failed.
    """
    from deepcache_trt.benchmarks.gpu_check.check import check
    from deepcache_trt.benchmarks.gpu_check.phases import find_phases

    chosen = find_phases(phases or ())
    if not out.name:
        raise DeepCacheError(f"--out {out} is a folder; give the name of a file in it")
    stem = out.with_suffix("") if out.suffix in (".json", ".md") else out
    check_out(stem.with_name(f"{stem.name}.json"))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whatever ends this ends the processes that it started
    rows = check(stem, minutes=minutes, phases=chosen, store=store, resume=resume, command=typed_command(), tell=tell)
    failed = sum(row.status == "fail" for row in rows)
    tell(f"{failed} of {len(rows)} rows failed; wrote {stem}.json and {stem}.md")
    if failed:
        raise typer.Exit(1)
