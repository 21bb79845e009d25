"""What `deepcache-trt tune` leaves behind: a plan file, the figures as JSON, a page and a plot of the Pareto front."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deepcache_trt.benchmarks.fidelity.distances import available
from deepcache_trt.benchmarks.report import markdown_table
from deepcache_trt.benchmarks.tune.draws import Checked
from deepcache_trt.benchmarks.tune.search import Costs, Result, Search
from deepcache_trt.runtime.policies.plan_file import PlanFile

PLOT = "plot"


def plan_file(search: Search, *, model: str, steps: int, costs: Costs) -> PlanFile:
    """The best plan, and what it was found for."""
    about = {
        "model": model,
        "steps": steps,
        "cost": round(search.best.cost, 4),
        "cost_of": f"{costs.unit} over those of the uncached image",
        "error": round(search.best.error, 5),
        "found_by": "deepcache-trt tune",
    }
    return PlanFile(policy=search.best.policy, about=about)


def record(search: Search, costs: Costs, checked: Mapping[str, Checked]) -> dict[str, Any]:
    """For JSON."""
    calls = [{"branch": branch, "forecast": forecast, **calls} for (branch, forecast), calls in costs.calls.items()]
    return {
        "costs": {"unit": costs.unit, "uncached_image": costs.whole, "calls_over_a_full_one": calls},
        **asdict(search),
        "checked": {name: asdict(plan) for name, plan in checked.items()},
    }


def table(checked: Mapping[str, Checked], unit: str) -> tuple[list[str], list[list[str]]]:
    """The header and the lines: plans on the seeds that nothing was chosen by."""
    header = ["", "plan", f"{unit}, of uncached", "error", "loop, s"]
    lines = [
        [
            name,
            plan.policy.in_words,
            f"{plan.cost:.1%}",
            f"{_mean(plan.errors):.4f}",
            f"{sorted(plan.loop_seconds)[len(plan.loop_seconds) // 2]:.3g}",
        ]
        for name, plan in checked.items()
    ]
    return header, lines


def page(
    search: Search,
    checked: Mapping[str, Checked],
    *,
    title: str,
    command: str,
    unit: str,
    environment: Mapping[str, str],
    plot: str | None,
) -> str:
    """The page of one search."""
    header, lines = table(checked, unit)
    considered, drawn = search.considered
    front = [[result.policy.in_words, f"{result.cost:.1%}", f"{result.error:.4f}"] for result in search.front]
    sections = [
        f"# {title}",
        f"Written by `{command}`.",
        f"The budget is {search.budget:.1%} of the uncached {unit}. Of {considered} plans, {drawn} were drawn from all "
        "seeds. *Error* is the distance of the final latents from the uncached ones over their norm, the mean over "
        "seeds.",
        "## On seeds that nothing was chosen by",
        markdown_table(header, lines),
        "## What other budgets buy",
        *([] if plot is None else [f"![Cost and error of the plans]({plot})"]),
        "Everything that is neither dearer nor worse than another plan, on the seeds of the search:",
        markdown_table(["plan", f"{unit}, of uncached", "error"], front),
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
    looks: tuple[tuple[str, Sequence[Result], dict[str, Any]], ...] = (
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


def _lowest(results: Sequence[Result]) -> list[Result]:
    """Of those of one cost the best, from the cheapest on."""
    best = {round(result.cost, 6): result for result in sorted(results, key=lambda result: -result.error)}
    return [best[cost] for cost in sorted(best)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
