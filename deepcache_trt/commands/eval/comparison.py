"""`deepcache-trt eval` by itself: fidelity beside speed."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepcache_trt.commands.typed.options import (
    AllowPickle,
    AsJson,
    Backend,
    CalibrationPrompts,
    Config,
    Dtype,
    Guidance,
    Model,
    Offline,
    Precision,
    Prompts,
    Quantize,
    Revision,
    Schedulers,
    StoreFolder,
    WeightsVariant,
)
from deepcache_trt.commands.typed.output import check_out, print_table, tell, typed_command
from deepcache_trt.errors import DeepCacheError

if TYPE_CHECKING:
    from deepcache_trt.runtime.policies import Policy


def eval(
    model: Model = "digits",
    steps: Annotated[
        list[int] | None, typer.Option(min=1, help="Denoising steps; several are compared. [default: 50]")
    ] = None,
    scheduler: Schedulers = None,
    seeds: Annotated[int, typer.Option(min=1, help="Batches that are drawn with each setting.")] = 4,
    prompt: Prompts = None,
    guidance: Guidance = None,
    interval: Annotated[list[int] | None, typer.Option(help="Repeatable. [default: 3 and 5, without --plan]")] = None,
    branch: Annotated[
        list[int] | None, typer.Option(help="Repeatable: with each interval in turn. [default: 0]")
    ] = None,
    forecast: Annotated[
        list[str] | None, typer.Option(help="taylor1 or none; repeatable: with each interval in turn. [default: none]")
    ] = None,
    plan: Annotated[list[Path] | None, typer.Option(help="A plan file; repeatable.")] = None,
    clip: Annotated[
        bool, typer.Option("--clip", help="The CLIP score too: open_clip's ViT-g-14 is 5 GB to download once.")
    ] = False,
    reference: Annotated[
        Path | None, typer.Option(help="A folder of images, for FID and KID against them; needs --out.")
    ] = None,
    backend: Backend = "auto",
    dtype: Dtype = None,
    precision: Precision = None,
    quantize: Quantize = None,
    calibration_prompts: CalibrationPrompts = None,
    store: StoreFolder = None,
    out: Annotated[
        Path | None, typer.Option(help="A folder for eval.json, eval.md and all pictures. [default: nothing is kept]")
    ] = None,
    as_json: AsJson = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    revision: Revision = None,
    variant: WeightsVariant = None,
    config: Config = None,
    offline: Offline = False,
    allow_pickle: AllowPickle = False,
) -> None:
    """Compare cached pictures with uncached ones.

    Each setting is set beside the uncached output of the same seeds, and beside what fewer steps give in its time. With
    --scheduler, or several --steps, each sampler with each count of steps is drawn uncached and with every setting, and
    all are measured by how near they come to what a fine solve gives.
    """
    pictures = _check_folders(out, reference)
    settings = settings_from(interval or (), branch or (), forecast or (), plan or ())
    from deepcache_trt.benchmarks.evaluate.measure import evaluate as measure
    from deepcache_trt.benchmarks.evaluate.measure import evaluate_samplers
    from deepcache_trt.benchmarks.evaluate.report import markdown, remarks, table
    from deepcache_trt.benchmarks.fidelity.judges import Judges
    from deepcache_trt.benchmarks.machine import environment
    from deepcache_trt.benchmarks.report import write_json
    from deepcache_trt.benchmarks.timing.allocator import keep_freed_memory
    from deepcache_trt.benchmarks.timing.drawing import Scene, load_pipes, prompts_for
    from deepcache_trt.builder.model_source import ModelSource
    from deepcache_trt.progress import quiet_libraries
    from deepcache_trt.samplers import parse_sampler, sampler_of

    if out is not None:
        check_out(out / "eval.json")
    quiet_libraries()
    keep_freed_memory()
    source = ModelSource(
        model=model, revision=revision, variant=variant, config=config, offline=offline, allow_pickle=allow_pickle
    )
    quantizing = {"precision": precision, "quantize": quantize, "calibration_prompts": calibration_prompts}
    pipes = load_pipes(
        source, policies=settings.values(), backend=backend, dtype=dtype, store=store, quantizing=quantizing
    )
    prompts = prompts_for(model, prompt)
    counts, own = tuple(dict.fromkeys(steps or (50,))), pipes.own_scheduler
    samplers = tuple(dict.fromkeys(parse_sampler(each, own) for each in scheduler or ())) or (sampler_of(own),)
    scene = Scene(prompts=prompts, steps=max(counts), guidance=guidance)
    judges = Judges(prompts, clip=clip, folder=pictures, reference=reference)
    if scheduler or len(counts) > 1:
        evaluation = evaluate_samplers(pipes, settings, samplers, counts, scene, range(seeds), judges, tell)
    else:
        evaluation = measure(pipes, settings, scene, range(seeds), judges, tell)
    title = f"Fidelity beside speed: {model}"
    machine = environment()
    text = markdown(evaluation, title=title, command=typed_command(), environment=machine)
    record = {"model": model, "backend": backend, "environment": machine, **evaluation.record()}
    if out is not None:
        write_json(out / "eval.json", record)
        (out / "eval.md").write_text(text, encoding="utf-8")
    if as_json:
        import json

        typer.echo(json.dumps(record, indent=2))
    elif as_markdown:
        typer.echo(text)
    else:
        header, lines = table(evaluation)
        print_table(header, lines, title=title)
        for remark in remarks(evaluation):
            typer.echo(f"· {remark}")


def settings_from(
    intervals: Sequence[int], branches: Sequence[int], forecasts: Sequence[str], plans: Sequence[Path]
) -> "dict[str, Policy]":
    """The settings by name: every interval with every branch and forecast, and the plan files."""
    from deepcache_trt.runtime.policies import DeepCache
    from deepcache_trt.runtime.policies.plan_file import read_plan

    if not intervals and not plans:
        intervals = (3, 5)
    settings: dict[str, Policy] = {}
    for interval in intervals:
        for branch in branches or (0,):
            for forecast in forecasts or ("none",):
                policy = DeepCache(
                    cache_interval=interval,
                    cache_branch_id=branch,
                    forecast=None if forecast == "none" else forecast,
                )
                name = f"interval {interval}, branch {branch}{f', {policy.forecast}' if policy.forecast else ''}"
                settings[name] = policy
    for plan in plans:
        name = f"plan {plan.stem}"
        if name in settings:
            raise DeepCacheError(f"two plan files are called {plan.stem!r}; rename one, the table names them so")
        settings[name] = read_plan(plan).policy
    return settings


def _check_folders(out: Path | None, reference: Path | None) -> Path | None:
    """Where the pictures go."""
    if reference is not None and out is None:
        raise DeepCacheError("--reference compares folders of images; give --out for a folder of those that are drawn")
    if reference is not None and not reference.is_dir():
        raise DeepCacheError(f"--reference {reference} is no folder; give one of PNG or JPEG images of one size")
    if out is None:
        return None
    pictures = out / "pictures"
    if pictures.exists():
        raise DeepCacheError(f"{pictures} holds the pictures of an earlier run; choose another --out")
    return pictures
