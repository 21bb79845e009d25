"""`deepcache-trt tune`: plans worth choosing."""

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
    from deepcache_trt.benchmarks.tune.search import Costs

_FORMATS = ("png", "svg")

# Seeds of the search count up from 0, those of the check from here.
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
    """Search the best plan within a budget.

    That is the one whose pictures are nearest to the uncached ones; it is written as a plan file.
    """
    _check(macs, speedup, seconds, plot)
    from deepcache_trt.benchmarks.machine import environment
    from deepcache_trt.benchmarks.report import write_json
    from deepcache_trt.benchmarks.timing.allocator import keep_freed_memory
    from deepcache_trt.benchmarks.timing.drawing import Scene, load_pipes, prompts_for
    from deepcache_trt.benchmarks.tune import report
    from deepcache_trt.benchmarks.tune import search as tuning
    from deepcache_trt.benchmarks.tune.draws import Drawer
    from deepcache_trt.builder.model_source import ModelSource
    from deepcache_trt.progress import quiet_libraries
    from deepcache_trt.runtime.policies import DeepCache
    from deepcache_trt.runtime.policies.plan_file import write_plan

    check_out(out / "plan.json")
    quiet_libraries()
    keep_freed_memory()
    branches = tuple(sorted({0, *(branch or (1, 2))}))  # 0: what is compared with
    source = ModelSource(
        model=model, revision=revision, variant=variant, config=config, offline=offline, allow_pickle=allow_pickle
    )
    considered = [DeepCache(cache_branch_id=each) for each in branches]
    pipes = load_pipes(source, policies=considered, backend=backend, dtype=dtype, store=store)
    drawer = Drawer(pipes, Scene(prompts=prompts_for(model, prompt), steps=steps, guidance=guidance), branches)
    costs = drawer.count_macs() if speedup is seconds is None else drawer.time_calls()
    result = tuning.search(
        _budget(costs, macs, speedup, seconds, costs.share(tuning.DEFAULT, steps)),
        steps=steps,
        branches=branches,
        costs=costs,
        error_of=drawer.error,
        seeds=range(seeds),
        tell=tell,
    )
    plans = {"uncached": tuning.UNCACHED, "default": tuning.DEFAULT}
    if result.reuse_within is not None:
        plans["plain reuse within the budget"] = result.reuse_within.policy
    checked = drawer.check({**plans, "chosen": result.best.policy}, costs, range(_UNSEEN, _UNSEEN + unseen))
    title = f"Plans for {model}, {steps} steps"
    machine = environment()
    image = out / f"front.{plot}"
    missing = report.save_plot(result, image, title=title, unit=costs.unit)
    text = report.page(
        result,
        checked,
        title=title,
        command=typed_command(),
        unit=costs.unit,
        environment=machine,
        plot=None if missing else image.name,
    )
    (out / "tune.md").write_text(text, encoding="utf-8")
    facts = {"model": model, "steps": steps, "backend": backend, "environment": machine}
    write_json(out / "tune.json", facts | report.record(result, costs, checked))
    write_plan(out / "plan.json", report.plan_file(result, model=model, steps=steps, costs=costs))
    print_table(*report.table(checked, costs.unit), title=f"{title}, on seeds that nothing was chosen by", words=2)
    if missing:
        tell(f"no plot: {missing}")
    typer.echo(str(out / "plan.json"))


def _check(macs: float | None, speedup: float | None, seconds: float | None, plot: str) -> None:
    given = {"--macs": macs, "--speedup": speedup, "--seconds": seconds}
    chosen = [name for name, value in given.items() if value is not None]
    if len(chosen) > 1:
        raise DeepCacheError(f"{' and '.join(chosen)} are budgets of different kinds; give one of them")
    for name, value in given.items():
        if value is not None and not value > 0:
            raise DeepCacheError(f"{name} must be above 0, not {value:g}")
    if plot not in _FORMATS:
        raise DeepCacheError(f"--plot {plot!r} is no format that there is; choose {' or '.join(_FORMATS)}")


def _budget(costs: "Costs", macs: float | None, speedup: float | None, seconds: float | None, default: float) -> float:
    """Over the cost of the uncached image."""
    if seconds is not None:
        return seconds / costs.whole
    if speedup is not None:
        return 1 / speedup
    return default if macs is None else macs
