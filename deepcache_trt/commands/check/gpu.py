"""`deepcache-trt check gpu`: which backends work here, what they compute and how fast."""

import signal
from pathlib import Path
from typing import Annotated

import typer

from deepcache_trt.commands.output import check_out, tell, typed_command


def gpu(
    out: Annotated[Path, typer.Option(help="Writes FILE.json and FILE.md.", metavar="FILE")],
    minutes: Annotated[float, typer.Option(min=0, help="For everything; what no longer fits is skipped.")] = 10,
    models: Annotated[
        list[str] | None, typer.Option(help="digits or sd15; repeatable. [default: digits; on a GPU sd15 too]")
    ] = None,
    store: Annotated[
        Path | None, typer.Option("--store", help="Where engines are kept. [default: a temporary folder]")
    ] = None,
) -> None:
    """Check and time every backend of this machine.

    What does not work is named with the reason. Every backend checks every model in a process of its own, so that one
    that crashes costs only its own rows; needs no network. Without a GPU the backends of the CPU are checked. Ends with
    1 where a check failed.
    """
    from deepcache_trt.benchmarks.gpu_check.check import check, check_models

    check_models(models or ())
    stem = out.with_suffix("") if out.suffix in (".json", ".md") else out
    check_out(stem.with_name(f"{stem.name}.json"))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whatever ends this ends the processes that it started
    rows = check(stem, minutes=minutes, models=models or (), store=store, command=typed_command(), tell=tell)
    failed = sum(row.status == "fail" for row in rows)
    tell(f"{failed} of {len(rows)} rows failed; wrote {stem}.json and {stem}.md")
    if failed:
        raise typer.Exit(1)
