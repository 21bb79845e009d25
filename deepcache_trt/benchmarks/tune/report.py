"""What `deepcache-trt tune` leaves behind: a plan file, the figures as JSON, a page and a plot of the Pareto front."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deepcache_trt.benchmarks.fidelity.distances import available, finite
from deepcache_trt.benchmarks.report import markdown_table
from deepcache_trt.benchmarks.tune.cheapest import Cheapest
from deepcache_trt.benchmarks.tune.draws import Checked
from deepcache_trt.benchmarks.tune.measures import ERROR, Goal, Measure
from deepcache_trt.benchmarks.tune.search import Costs, Result, Search
from deepcache_trt.runtime.policies import Adaptive, DeepCache
from deepcache_trt.runtime.policies.plan_file import PlanFile

PLOT = "plot"

# Plans that are checked, by the names of their rows.
UNCACHED, CHOSEN = "uncached", "chosen"


def plan_file(
    best: Result[DeepCache] | Result[DeepCache | Adaptive],
    checked: Mapping[str, Checked],
    *,
    model: str,
    steps: int,
    asked: str,
    unit: str,
    measure: Measure = ERROR,
) -> PlanFile:
    """The best plan, what was asked for, and what it was like on the seeds that nothing was chosen by.

    Args:
        best: the plan.
        checked: it and the uncached one among others.
        model: by its name.
        steps: of denoising.
        asked: the budget, or the goal.
        unit: of the costs.
        measure: of the errors that were checked.
    """
    chosen = checked[CHOSEN]
    about = {
        "model": model,
        "steps": steps,
        "asked": asked,
        "cost": round(best.cost, 4),
        "cost_of": f"{unit} over those of the uncached image",
        measure.name: round(statistics.mean(chosen.errors), 5),
        "speedup": round(_speedup(chosen, checked[UNCACHED]), 2),
        "found_by": "deepcache-trt tune",
    }
    return PlanFile(policy=best.policy, about=about)


def record(found: Search | Cheapest, costs: Costs, checked: Mapping[str, Checked]) -> dict[str, Any]:
    """For JSON."""
    calls = [{"branch": branch, "forecast": forecast, **calls} for (branch, forecast), calls in costs.calls.items()]
    plans = {name: {**asdict(plan), "errors": [*map(finite, plan.errors)]} for name, plan in checked.items()}
    return {
        "costs": {"unit": costs.unit, "uncached_image": costs.whole, "calls_over_a_full_one": calls},
        **asdict(found),
        "checked": plans,
    }


def table(checked: Mapping[str, Checked], unit: str, measure: Measure = ERROR) -> tuple[list[str], list[list[str]]]:
    """The header and the lines: plans on the seeds that nothing was chosen by."""
    header = ["", "plan", f"{unit}, of uncached", measure.heading, "loop, s", "speed-up"]
    uncached = checked[UNCACHED]
    lines = [
        [
            name,
            plan.policy.in_words,
            f"{plan.cost:.1%}",
            measure.in_words(statistics.mean(plan.errors)),
            f"{statistics.median(plan.loop_seconds):.3g}",
            f"{_speedup(plan, uncached):.2f}×",
        ]
        for name, plan in checked.items()
    ]
    return header, lines


def _speedup(plan: Checked, uncached: Checked) -> float:
    """The median of the rounds' ratios: a slow moment of the machine falls on both sides of one."""
    rounds = zip(uncached.loop_seconds, plan.loop_seconds, strict=True)
    return statistics.median(theirs / ours for theirs, ours in rounds)


def of_search(search: Search, unit: str, plot: str | None) -> tuple[str, list[str]]:
    """What a page says of a search within a budget, above the plans that were checked and below."""
    considered, drawn = search.considered
    front = [[result.policy.in_words, f"{result.cost:.1%}", f"{result.error:.4f}"] for result in search.front]
    above = (
        f"The budget is {search.budget:.1%} of the uncached {unit}. Of {considered} plans, {drawn} were drawn from all "
        "seeds. *Error* is the distance of the final latents from the uncached ones over their norm, the mean over "
        "seeds."
    )
    return above, [
        "## What other budgets buy",
        *([] if plot is None else [f"![Cost and error of the plans]({plot})"]),
        "Everything that is neither dearer nor worse than another plan, on the seeds of the search:",
        markdown_table(["plan", f"{unit}, of uncached", "error"], front),
    ]


def of_goal(found: Cheapest, goal: Goal, unit: str) -> tuple[str, list[str]]:
    """The same of a search for the cheapest plan of a fidelity."""
    measure, (considered, drawn) = goal.measure, found.considered
    passed = [
        [result.policy.in_words, f"{result.cost:.1%}", measure.in_words(abs(result.error))]
        for result in reversed(found.passed)
    ]
    above = (
        f"Asked for: {goal}, against the uncached picture of the same seed, the mean over seeds. Of {considered} "
        f"plans, {drawn} were drawn, and of the cheapest that seemed near enough "
        + ("the first one" if found.attempts == 1 else f"number {found.attempts}")
        + " was so on seeds of its own too."
    )
    return above, [
        "## What passed on the way",
        "Near enough on the seeds of the search, the cheapest first:",
        markdown_table(["plan", f"{unit}, of uncached", measure.heading], passed),
    ]


def page(
    above: str,
    below: Sequence[str],
    checked: tuple[list[str], list[list[str]]],
    *,
    title: str,
    command: str,
    environment: Mapping[str, str],
) -> str:
    """The page of one search.

    Args:
        above: see `of_search`.
        below: likewise.
        checked: what `table` gives.
        title: of the page.
        command: that wrote it.
        environment: of the machine.
    """
    sections = [
        f"# {title}",
        f"Written by `{command}`.",
        above,
        "## On seeds that nothing was chosen by",
        markdown_table(*checked),
        *below,
        markdown_table(["", ""], [[name, value] for name, value in environment.items()]),
    ]
    return "\n\n".join(sections) + "\n"


def save_plot(search: Search, path: Path, *, title: str, unit: str) -> str:
    """Plot the front beside plain reuse; returns why it was not, with the cure, or "" where it was."""
    _, absent = available({PLOT: lambda: _save_plot(search, path, title=title, unit=unit)})
    return absent.get(PLOT, "")


def _save_plot(search: Search, path: Path, *, title: str, unit: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    looks: tuple[tuple[str, Sequence[Result[DeepCache]], dict[str, Any]], ...] = (
        ("plain reuse, by its interval", _lowest(search.reuse), {"color": "#888888", "marker": "o", "linestyle": "--"}),
        ("best plans", search.front, {"color": "#1a5fb4", "marker": "s", "drawstyle": "steps-post"}),
    )
    for name, results, look in looks:
        axes.plot(
            [100 * result.cost for result in results],
            [result.error for result in results],
            label=name,
            markersize=4,
            **look,
        )
    for result in _lowest(search.reuse):
        axes.annotate(
            str(result.policy.cache_interval),
            (100 * result.cost, result.error),
            xytext=(4, 4),
            textcoords="offset points",
            fontsize=9,
            color="#666666",
        )
    axes.axvline(100 * search.budget, color="#c01c28", linewidth=1, linestyle=":", label="budget")
    axes.plot(
        [100 * search.best.cost],
        [search.best.error],
        color="#c01c28",
        marker="*",
        markersize=14,
        linestyle="",
        label=f"chosen: {search.best.policy.in_words}",
    )
    axes.set(
        title=title,
        xlabel=f"cost, % of the uncached {unit}",
        ylabel="error: distance from the uncached latents",
        yscale="log",
    )
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(which="major", color="#dddddd")
    axes.legend(fontsize=9)
    figure.savefig(path, dpi=120)


def _lowest(results: Sequence[Result[DeepCache]]) -> list[Result[DeepCache]]:
    """Of those of one cost the best, from the cheapest on."""
    best = {round(result.cost, 6): result for result in sorted(results, key=lambda result: -result.error)}
    return [best[cost] for cost in sorted(best)]
