"""`deepcache-trt tune`: plans worth choosing."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepcache_trt.commands.typed.options import (
    AllowPickle,
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
    from deepcache_trt.benchmarks.timing.drawing import Scene
    from deepcache_trt.benchmarks.tune.costs import Budget
    from deepcache_trt.benchmarks.tune.measures import Goal
    from deepcache_trt.benchmarks.tune.run import Tuned
    from deepcache_trt.builder.model_source import ModelSource
    from deepcache_trt.pipelines.engine_options import EngineOptions
    from deepcache_trt.runtime.policies import DeepCache

_FORMATS = ("png", "svg")


def tune(
    model: Model = "digits",
    steps: Annotated[
        list[int] | None, typer.Option(min=2, help="Denoising steps; several are compared. [default: 50]")
    ] = None,
    scheduler: Schedulers = None,
    macs: Annotated[
        float | None,
        typer.Option(help="The budget: a share of the uncached operations, as 0.4. [default: as much as interval 3]"),
    ] = None,
    speedup: Annotated[float | None, typer.Option(help="Or: so many times as fast as uncached, by the clock.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Or: of denoising one image, by the clock.")] = None,
    error: Annotated[
        float | None,
        typer.Option(help="Instead of a budget: the fastest plan whose latents are so near, as 0.05 of their norm."),
    ] = None,
    psnr: Annotated[float | None, typer.Option(help="The same by the PSNR of the pictures in dB, as 40.")] = None,
    lpips: Annotated[float | None, typer.Option(help="The same by the LPIPS of the pictures, as 0.1.")] = None,
    loss: Annotated[
        float | None,
        typer.Option(help="Instead of a plan: the layers whose --precision loses at most so many dB beside caching."),
    ] = None,
    interval: Annotated[int, typer.Option(min=2, help="With --loss: that of the plan.")] = 3,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Batches that are chosen by. [default: 4, with --loss 1]")
    ] = None,
    unseen: Annotated[int, typer.Option(min=1, help="Further batches that what is chosen is checked on.")] = 4,
    prompt: Prompts = None,
    guidance: Guidance = None,
    branch: Annotated[
        list[int] | None, typer.Option(help="To consider beside 0; repeatable. [default: 1 and 2]")
    ] = None,
    backend: Backend = "auto",
    dtype: Dtype = None,
    precision: Precision = None,
    quantize: Quantize = None,
    calibration_prompts: CalibrationPrompts = None,
    store: StoreFolder = None,
    out: Annotated[
        Path,
        typer.Option(help="The folder for plan.json, tune.json, tune.md and the plot; with --loss for layers.txt."),
    ] = Path("tuned"),
    plot: Annotated[str, typer.Option(help="png or svg.")] = "png",
    revision: Revision = None,
    variant: WeightsVariant = None,
    config: Config = None,
    offline: Offline = False,
    allow_pickle: AllowPickle = False,
) -> None:
    """Search the best plan for a budget or a fidelity.

    Within a budget that is the plan whose pictures are nearest to the uncached ones, of a fidelity the fastest. It is
    written as a plan file, with how near and how fast it was on seeds that it was not chosen by. With --scheduler, or
    several --steps, a plan for each sampler with each count of steps is considered, and their uncached runs too; all
    are measured by how near they come to what a fine solve gives. With --precision and --loss, groups of layers are
    ranked by the error that each causes, and as many are found as lose no more together beside what caching loses.
    """
    budgets = {"macs": macs, "speedup": speedup, "seconds": seconds}
    goals = {"error": error, "psnr": psnr, "lpips": lpips}
    _check({**budgets, **goals, "loss": loss}, plot)
    if loss is not None:
        _check_study(precision, quantize, scheduler, steps, branch)
    from deepcache_trt.benchmarks.timing.allocator import keep_freed_memory
    from deepcache_trt.benchmarks.timing.drawing import Scene, load_pipes, prompts_for
    from deepcache_trt.benchmarks.tune.report import options
    from deepcache_trt.benchmarks.tune.run import Space
    from deepcache_trt.benchmarks.tune.run import tune as search
    from deepcache_trt.builder.model_source import ModelSource
    from deepcache_trt.pipelines.engine_options import EngineOptions
    from deepcache_trt.progress import quiet_libraries
    from deepcache_trt.runtime.policies import DeepCache
    from deepcache_trt.samplers import parse_sampler, sampler_of

    check_out(out / ("plan.json" if loss is None else "layers.txt"))
    quiet_libraries()
    keep_freed_memory()
    source = ModelSource(
        model=model, revision=revision, variant=variant, config=config, offline=offline, allow_pickle=allow_pickle
    )
    if loss is not None:
        count = (steps or (50,))[0]
        _study(
            source,
            DeepCache(cache_interval=interval, cache_branch_id=(branch or (0,))[0]),
            Scene(prompts=prompts_for(model, prompt), steps=count, guidance=guidance),
            EngineOptions(precision=precision, calibration_prompts=calibration_prompts, store=store),
            dtype=dtype,
            loss=loss,
            seeds=seeds or 1,
            unseen=unseen,
            out=out,
        )
        return
    asked = _asked(budgets, goals)
    branches = tuple(sorted({0, *(branch or (1, 2))}))  # 0: what is compared with
    wanted = [DeepCache(cache_branch_id=each) for each in branches]
    quantizing = {"precision": precision, "quantize": quantize, "calibration_prompts": calibration_prompts}
    pipes = load_pipes(source, policies=wanted, backend=backend, dtype=dtype, store=store, quantizing=quantizing)
    counts, own = tuple(dict.fromkeys(steps or (50,))), pipes.own_scheduler
    samplers = tuple(dict.fromkeys(parse_sampler(each, own) for each in scheduler or ())) or (sampler_of(own),)
    space = Space(samplers=samplers, steps=counts, branches=branches, solved=bool(scheduler) or len(counts) > 1)
    scene = Scene(prompts=prompts_for(model, prompt), steps=max(counts), guidance=guidance)
    tuned = search(pipes, space, scene, asked, seeds=seeds or 4, unseen=unseen, tell=tell)
    facts = {"model": model, "steps": counts, "schedulers": [each.name for each in samplers], "backend": backend}
    title = f"Plans for {model}, {', '.join(map(str, counts))} steps"
    _write(tuned, out, facts, title=title, plot=plot)
    typer.echo(str(out / "plan.json"))
    drawing = ["--model", model, "--plan", str(out / "plan.json"), *options(tuned)]
    drawing += [] if guidance is None else ["--guidance", f"{guidance:g}"]
    tell(f"draw with it: deepcache-trt generate PROMPT {shlex.join(drawing)}")


def _check_study(
    precision: str | None,
    quantize: list[str] | None,
    schedulers: list[str] | None,
    steps: list[int] | None,
    branches: list[int] | None,
) -> None:
    """Refuse what has no meaning where layers are looked for, and not a plan."""
    if precision is None:
        raise DeepCacheError("--loss asks which layers bear a precision; give --precision int8 too")
    for name, given in (("--quantize", quantize), ("--scheduler", schedulers)):
        if given:
            raise DeepCacheError(f"{name} {given[0]} has no meaning with --loss, which finds layers; leave one out")
    for name, counts in (("--steps", steps), ("--branch", branches)):
        if counts and len(counts) > 1:
            raise DeepCacheError(f"--loss is of one plan, and {name} is given {len(counts)} times; give it once")


def _study(
    source: "ModelSource",
    policy: "DeepCache",
    scene: "Scene",
    options: "EngineOptions",
    *,
    dtype: str | None,
    loss: float,
    seeds: int,
    unseen: int,
    out: Path,
) -> None:
    """Find the layers, write what was found into a folder, and print how to use it."""
    from deepcache_trt.benchmarks.machine import environment
    from deepcache_trt.benchmarks.sensitivity import report
    from deepcache_trt.benchmarks.sensitivity.study import study
    from deepcache_trt.benchmarks.timing.drawing import load_pipes

    folder = None if options.store is None else Path(options.store)
    pipes = load_pipes(source, policies=[policy], backend="torch", dtype=dtype, store=folder)
    found = study(pipes.plain, source.model, policy, scene, options, budget=loss, seeds=seeds, unseen=unseen, tell=tell)
    title = f"Layers of {source.model} in {options.precision}, {policy.in_words}, {scene.steps} steps"
    facts = {"model": source.model, "steps": scene.steps, "policy": policy.to_json(), "environment": environment()}
    report.write(found, out, title=title, command=typed_command(), facts=facts)
    header, lines = report.table(found)
    print_table(header, lines, title=title, words=1)
    typer.echo(str(out / report.LAYERS))
    wanted = ["--precision", str(options.precision), "--quantize", f"@{out / report.LAYERS}"]
    drawing = ["--model", source.model, "--interval", str(policy.cache_interval), *wanted]
    tell(f"draw with them: deepcache-trt generate PROMPT {shlex.join(drawing)}")


def _write(tuned: "Tuned", out: Path, facts: Mapping[str, object], *, title: str, plot: str) -> None:
    """Write what was found into a folder, and print the table of it."""
    from deepcache_trt.benchmarks.machine import environment
    from deepcache_trt.benchmarks.report import write_json
    from deepcache_trt.benchmarks.tune import report
    from deepcache_trt.benchmarks.tune.plot import save_plot
    from deepcache_trt.benchmarks.tune.search import Search
    from deepcache_trt.runtime.policies.plan_file import write_plan

    machine, image, missing = environment(), None, ""
    if isinstance(tuned.found, Search):
        image = out / f"front.{plot}"
        missing = save_plot(tuned.found, image, title=title, unit=tuned.costs.unit, truth=tuned.truth)
    shown = None if image is None or missing else image.name
    text = report.page(tuned, title=title, command=typed_command(), environment=machine, plot=shown)
    (out / "tune.md").write_text(text, encoding="utf-8")
    write_json(out / "tune.json", {**facts, "environment": machine, **report.record(tuned)})
    write_plan(out / "plan.json", report.plan_file(tuned, model=str(facts["model"])))
    header, lines = report.table(tuned)
    print_table(header, lines, title=f"{title}, on seeds that nothing was chosen by", words=header.index("plan") + 1)
    for said in (report.pace(tuned), missing and f"no plot: {missing}"):
        if said:
            tell(said)


def _check(given: Mapping[str, float | None], plot: str) -> None:
    chosen = [f"--{name}" for name, value in given.items() if value is not None]
    if len(chosen) > 1:
        raise DeepCacheError(f"{' and '.join(chosen)} ask for different things; give one of them")
    for name, value in given.items():
        if value is not None and not value > 0:
            raise DeepCacheError(f"--{name} must be above 0, not {value:g}")
    if plot not in _FORMATS:
        raise DeepCacheError(f"--plot {plot!r} is no format that there is; choose {' or '.join(_FORMATS)}")


def _asked(budgets: Mapping[str, float | None], goals: Mapping[str, float | None]) -> "Budget | Goal":
    """The budget, or what fidelity is asked for, if any is."""
    from deepcache_trt.benchmarks.tune.costs import Budget
    from deepcache_trt.benchmarks.tune.measures import Goal, measure_of

    for name, value in goals.items():
        if value is not None:
            return Goal(measure=measure_of(name), value=value)
    return Budget(macs=budgets["macs"], speedup=budgets["speedup"], seconds=budgets["seconds"])
