"""`deepcache-trt bench`: the published table of DeepCache on this machine."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from deepcache_trt.commands.typed.options import Precision, Quantize, RandomWeights, StoreFolder
from deepcache_trt.commands.typed.output import check_out, typed_command


def bench(
    preset: Annotated[
        str, typer.Option(help="a5000: the published grid; cpu: for two cores, 20 minutes; smoke: the bundled digits.")
    ] = "smoke",
    model: Annotated[
        str | None, typer.Option(help="A catalogue name, a folder, or a hub id. [default: the preset's]")
    ] = None,
    random_weights: RandomWeights = False,
    size: Annotated[list[int] | None, typer.Option(help="Pixels, height and width; repeatable.")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Images of a call; repeatable.")] = None,
    interval: Annotated[
        list[int] | None, typer.Option(help="Cache intervals; repeatable, each with every --branch.")
    ] = None,
    branch: Annotated[list[int] | None, typer.Option(help="Cache branches; repeatable.")] = None,
    plan: Annotated[list[Path] | None, typer.Option(help="A plan file, as a column of ours; repeatable.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    system: Annotated[
        list[str] | None, typer.Option(help="ours, deepcache (the package), diffusers, compiled; repeatable.")
    ] = None,
    backend: Annotated[list[str] | None, typer.Option(help="Of ours; repeatable. [default: auto]")] = None,
    dtype: Annotated[str | None, typer.Option(help="Of every system: float32, float16 or bfloat16.")] = None,
    precision: Precision = None,
    quantize: Quantize = None,
    repeats: Annotated[int | None, typer.Option(help="Timed calls of each system in each cell.")] = None,
    out: Annotated[
        Path, typer.Option(help="The JSON file; where it has some of these cells already, the others are measured.")
    ] = Path("bench.json"),
    compare: Annotated[Path | None, typer.Option(help="An earlier JSON file to set this one beside.")] = None,
    chart: Annotated[Path | None, typer.Option(help="An SVG or PNG file to draw a chart into.")] = None,
    docs: Annotated[Path | None, typer.Option(help="A Markdown file to write as the page of benchmarks.")] = None,
    peer_python: Annotated[
        Path | None, typer.Option(help="Python of another environment for the systems beside ours.")
    ] = None,
    store: StoreFolder = None,
) -> None:
    """Measure the published table on this machine.

    Times ours, diffusers and the DeepCache package by size, batch and cache plan, each in turn, and prints Markdown.
    What is given replaces that of the preset. Ctrl-C loses no finished cell: the same command goes on.
    """
    from deepcache_trt.benchmarks.bench import chart as charts
    from deepcache_trt.benchmarks.bench import compare as comparison
    from deepcache_trt.benchmarks.bench import measure as measuring
    from deepcache_trt.benchmarks.bench import page, presets
    from deepcache_trt.benchmarks.bench.figures import Figures
    from deepcache_trt.benchmarks.bench.report import markdown
    from deepcache_trt.engines.store import default_root
    from deepcache_trt.progress import quiet_libraries, shown
    from deepcache_trt.runtime.policies.plan_file import read_plan

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whatever ends this ends the systems
    settings = presets.settings_of(
        presets.preset(preset),
        model=model,
        random_weights=random_weights or None,
        steps=steps,
        sizes=size,
        batches=batch,
        intervals=interval,
        branches=branch,
        plans=[read_plan(path).policy for path in plan or ()],
        systems=system,
        backends=backend,
        dtype=dtype,
        repeats=repeats,
        precision=precision,
        quantize=quantize,
    )
    earlier = None if compare is None else Figures(measuring.read_record(compare))
    if earlier is not None:
        comparison.check(settings, earlier.settings)
    if chart is not None:
        charts.check(chart)
    check_out(out)
    quiet_libraries()
    record = measuring.open_record(out, settings, typed_command())
    with shown(f"measuring {len(settings.cells)} cells") as report:
        measuring.measure(
            record,
            settings,
            out,
            store or default_root(),
            report=report,
            tell=lambda line: None if sys.stderr.isatty() else typer.echo(line, err=True),
            peer_python=str(peer_python or ""),
        )
    figures = Figures(record)
    typer.echo(markdown(figures))
    if chart is not None:
        charts.draw(figures, chart)
    if docs is not None:
        page.write(docs, [figures], chart=chart, earlier=earlier)
    if earlier is not None:
        typer.echo(comparison.compare(figures, earlier))
