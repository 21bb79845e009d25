"""`deepcache-trt experiment`: the papers' experiments, by name."""

from pathlib import Path
from typing import Annotated

import typer

from deepcache_trt.commands.typed.options import (
    Backend,
    Dtype,
    Guidance,
    Prompts,
    Revision,
    StoreFolder,
    WeightsVariant,
)
from deepcache_trt.errors import DeepCacheError


def experiment(
    name: Annotated[
        str | None, typer.Argument(help="Which; list tells them, report collects results. [default: --config's]")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "--output-dir", "--output_dir", help="The folder of results. [default: of its name]"),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A catalogue name, a folder or hub id that draws from prompts. [default: digits]")
    ] = None,
    prompt: Prompts = None,
    prompt_file: Annotated[
        Path | None,
        typer.Option("--prompt-file", "--prompt_file", help="One a line, or PartiPrompts' .tsv, or COCO's .json."),
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Pictures of each prompt. [default: the experiment's]")] = None,
    seed: Annotated[int | None, typer.Option(help="Of picture 0; that of picture i is this + i. [default: 0]")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps. [default: 50]")] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", "--batch-size", "--batch_size", help="Pictures of a call. [default: 10]")
    ] = None,
    interval: Annotated[
        list[int] | None,
        typer.Option("--interval", "--cache-interval", "--cache_interval", help="Repeatable. [default: its own]"),
    ] = None,
    branch: Annotated[
        list[int] | None,
        typer.Option("--branch", "--cache-branch-id", "--cache_branch_id", help="Repeatable. [default: its own]"),
    ] = None,
    scheduler: Annotated[
        list[str] | None,
        typer.Option(help="Of diffusers, as unipc or ddim,timestep_spacing=trailing; repeatable. [default: six]"),
    ] = None,
    guidance: Guidance = None,
    clip: Annotated[
        bool | None, typer.Option("--clip", help="The CLIP score too: open_clip's ViT-g-14 is 5 GB to download once.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many pictures, for a quick look.")] = None,
    backend: Backend = "auto",
    dtype: Dtype = None,
    store: StoreFolder = None,
    config: Annotated[
        Path | None, typer.Option(help="The config.json of an earlier run, or a .toml; options go before it.")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="Of report: the folder with results, anywhere below it. [default: this one]")
    ] = None,
    revision: Revision = None,
    variant: WeightsVariant = None,
) -> None:
    """Run an experiment of the papers on caching.

    Pictures, a line about each, a table and a plot go into a folder. A run that was killed goes on where it was when it
    is given the same command again, and draws nothing twice.
    """
    from deepcache_trt.benchmarks.experiments.config import Config, read_config
    from deepcache_trt.benchmarks.experiments.declared import experiment_called, experiments
    from deepcache_trt.benchmarks.experiments.prompts import read_prompts

    if name == "list":
        width = max(map(len, experiments()))
        for each in experiments().values():
            typer.echo(f"{each.name:<{width}}  {each.says}")
        return
    if name == "report":
        collect_into(out or Path("report"), results)
        return
    if results is not None:
        raise DeepCacheError("--results is of `experiment report`, which collects what there is; leave it out")
    if name is None and config is None:
        raise DeepCacheError(f"which experiment? There are {', '.join(experiments())}; or give --config FILE")
    if prompt and prompt_file is not None:
        raise DeepCacheError("--prompt and --prompt-file both say what is drawn; give one of them")
    read = Config(experiment="") if config is None else read_config(config)
    chosen = experiment_called(name or read.experiment)
    given = {
        "experiment": chosen.name,
        "model": model,
        "revision": revision,
        "variant": variant,
        "prompts": prompt if prompt_file is None else read_prompts(prompt_file),
        "seeds": seeds,
        "seed": seed,
        "steps": steps,
        "guidance": guidance,
        "batch": batch,
        "intervals": interval,
        "branches": branch,
        "schedulers": scheduler,
        "backend": backend if config is None or backend != "auto" else None,
        "dtype": dtype,
        "clip": clip,
    }
    asked = read.with_given(given)

    from deepcache_trt.benchmarks.experiments.report import remarks, table
    from deepcache_trt.benchmarks.experiments.run import run
    from deepcache_trt.benchmarks.timing.allocator import keep_freed_memory
    from deepcache_trt.commands.typed.output import print_table, tell, typed_command
    from deepcache_trt.progress import quiet_libraries, shown

    quiet_libraries()
    keep_freed_memory()
    folder = out or Path(chosen.name)
    found = run(asked, folder, limit=limit, store=store, command=typed_command(), progress=shown, tell=tell)
    print_table(*table(found), title=chosen.name)
    for remark in remarks(found):
        typer.echo(f"· {remark}")
    typer.echo(str(folder))


def collect_into(out: Path, results: Path | None) -> None:
    """Collect results into a page."""
    from deepcache_trt.benchmarks.experiments.collect import FOLDER, NUMBERS, PAGE, collect

    collect(results or Path(), out)
    typer.echo(str(out / PAGE))
    typer.echo(str(out / FOLDER / NUMBERS))
