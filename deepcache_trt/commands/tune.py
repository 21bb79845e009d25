"""`deepcache-trt tune`: plans worth choosing."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepcache_trt.commands.options import (
    AllowPickle,
    Backend,
    Config,
    Dtype,
    Guidance,
    Model,
    Offline,
    Prompts,
    Revision,
    StoreFolder,
    WeightsVariant,
)
from deepcache_trt.commands.output import check_out, print_table, tell, typed_command
from deepcache_trt.errors import DeepCacheError

if TYPE_CHECKING:
    from deepcache_trt.benchmarks.tune.measures import Goal
    from deepcache_trt.benchmarks.tune.search import Costs

_FORMATS = ("png", "svg")

# Seeds of the search count up from 0, those of its first check from here, of the next one from twice that.
_UNSEEN = 1000


def tune(
    model: Model = "digits",
    steps: Annotated[int, typer.Option(min=2, help="Denoising steps.")] = 50,
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
    seeds: Annotated[int, typer.Option(min=1, help="Batches that plans are chosen by.")] = 4,
    unseen: Annotated[int, typer.Option(min=1, help="Further batches that the chosen one is checked on.")] = 4,
    prompt: Prompts = None,
    guidance: Guidance = None,
    branch: Annotated[
        list[int] | None, typer.Option(help="To consider beside 0; repeatable. [default: 1 and 2]")
    ] = None,
    backend: Backend = "auto",
    dtype: Dtype = None,
    store: StoreFolder = None,
    out: Annotated[Path, typer.Option(help="The folder for plan.json, tune.json, tune.md and the plot.")] = Path(
        "tuned"
    ),
    plot: Annotated[str, typer.Option(help="png or svg.")] = "png",
    revision: Revision = None,
    variant: WeightsVariant = None,
    config: Config = None,
    offline: Offline = False,
    allow_pickle: AllowPickle = False,
) -> None:
    """Search the best plan for a budget or a fidelity.

    Within a budget that is the plan whose pictures are nearest to the uncached ones, of a fidelity the fastest. It is
    written as a plan file, with how near and how fast it was on seeds that it was not chosen by.
    """
    budgets = {"--macs": macs, "--speedup": speedup, "--seconds": seconds}
    goals = {"--error": error, "--psnr": psnr, "--lpips": lpips}
    _check({**budgets, **goals}, plot)
    from deepcache_trt.benchmarks.machine import environment
    from deepcache_trt.benchmarks.report import write_json
    from deepcache_trt.benchmarks.timing.allocator import keep_freed_memory
    from deepcache_trt.benchmarks.timing.drawing import Scene, load_pipes, prompts_for
    from deepcache_trt.benchmarks.tune import report
    from deepcache_trt.benchmarks.tune import search as tuning
    from deepcache_trt.benchmarks.tune.cheapest import Cheapest, cheapest
    from deepcache_trt.benchmarks.tune.draws import Drawer
    from deepcache_trt.benchmarks.tune.measures import ERROR
    from deepcache_trt.builder.model_source import ModelSource
    from deepcache_trt.progress import quiet_libraries
    from deepcache_trt.runtime.policies import Adaptive, DeepCache
    from deepcache_trt.runtime.policies.plan_file import write_plan

    check_out(out / "plan.json")
    quiet_libraries()
    keep_freed_memory()
    goal = _goal(goals)
    branches = tuple(sorted({0, *(branch or (1, 2))}))  # 0: what is compared with
    source = ModelSource(
        model=model, revision=revision, variant=variant, config=config, offline=offline, allow_pickle=allow_pickle
    )
    wanted = [DeepCache(cache_branch_id=each) for each in branches]
    pipes = load_pipes(source, policies=wanted, backend=backend, dtype=dtype, store=store)
    measure = ERROR if goal is None else goal.measure
    scene = Scene(prompts=prompts_for(model, prompt), steps=steps, guidance=guidance)
    drawer = Drawer(pipes, scene, branches, measure)
    by_clock = goal is not None or speedup is not None or seconds is not None
    costs = drawer.time_calls() if by_clock else drawer.count_macs()
    plans: dict[str, DeepCache | Adaptive] = {report.UNCACHED: tuning.UNCACHED, "default": tuning.DEFAULT}
    title, missing = f"Plans for {model}, {steps} steps", ""

    def fresh(attempt: int) -> range:
        return range(attempt * _UNSEEN, attempt * _UNSEEN + unseen)

    found: tuning.Search | Cheapest
    if goal is None:
        found = tuning.search(
            _budget(costs, macs, speedup, seconds, costs.share(tuning.DEFAULT, steps)),
            steps=steps,
            branches=branches,
            costs=costs,
            error_of=drawer.error,
            seeds=range(seeds),
            tell=tell,
        )
        if found.reuse_within is not None:
            plans["plain reuse within the budget"] = found.reuse_within.policy
        image, asked = out / f"front.{plot}", f"{found.budget:.1%} of the uncached {costs.unit}"
        missing = report.save_plot(found, image, title=title, unit=costs.unit)
        above, below = report.of_search(found, costs.unit, None if missing else image.name)
    else:
        found = cheapest(
            goal.measure.loss(goal.value),
            steps=steps,
            branches=branches,
            costs=costs,
            loss_of=drawer.loss,
            took=drawer.took,
            seeds=range(seeds),
            unseen=fresh,
            tell=tell,
        )
        asked = str(goal)
        above, below = report.of_goal(found, goal, costs.unit)
    attempt = found.attempts if isinstance(found, Cheapest) else 1
    checked = drawer.check({**plans, report.CHOSEN: found.best.policy}, costs, fresh(attempt))
    lines, machine = report.table(checked, costs.unit, measure), environment()
    text = report.page(above, below, lines, title=title, command=typed_command(), environment=machine)
    (out / "tune.md").write_text(text, encoding="utf-8")
    facts = {"model": model, "steps": steps, "backend": backend, "asked": asked, "environment": machine}
    write_json(out / "tune.json", facts | report.record(found, costs, checked))
    plan = report.plan_file(
        found.best, checked, model=model, steps=steps, asked=asked, unit=costs.unit, measure=measure
    )
    write_plan(out / "plan.json", plan)
    print_table(*lines, title=f"{title}, on seeds that nothing was chosen by", words=2)
    if missing:
        tell(f"no plot: {missing}")
    typer.echo(str(out / "plan.json"))


def _check(given: Mapping[str, float | None], plot: str) -> None:
    chosen = [name for name, value in given.items() if value is not None]
    if len(chosen) > 1:
        raise DeepCacheError(f"{' and '.join(chosen)} ask for different things; give one of them")
    for name, value in given.items():
        if value is not None and not value > 0:
            raise DeepCacheError(f"{name} must be above 0, not {value:g}")
    if plot not in _FORMATS:
        raise DeepCacheError(f"--plot {plot!r} is no format that there is; choose {' or '.join(_FORMATS)}")


def _goal(goals: Mapping[str, float | None]) -> "Goal | None":
    """What fidelity is asked for, if any is."""
    from deepcache_trt.benchmarks.tune.measures import Goal, measure_of

    for option, value in goals.items():
        if value is not None:
            return Goal(measure=measure_of(option.removeprefix("--")), value=value)
    return None


def _budget(costs: "Costs", macs: float | None, speedup: float | None, seconds: float | None, default: float) -> float:
    """Over the cost of the uncached image."""
    if seconds is not None:
        return seconds / costs.whole
    if speedup is not None:
        return 1 / speedup
    return default if macs is None else macs
