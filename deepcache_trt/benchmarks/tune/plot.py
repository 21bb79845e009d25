"""The plot of what budgets buy: the front beside plain reuse and the uncached runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepcache_trt.benchmarks.fidelity.distances import available
from deepcache_trt.benchmarks.tune.search import Result, Search
from deepcache_trt.runtime.policies import DeepCache

PLOT = "plot"

# Of the uncached runs of one sampler each.
_COLORS = ("#26a269", "#e66100", "#813d9c", "#986a44", "#2190a4", "#77767b")


def save_plot(search: Search, path: Path, *, title: str, unit: str, truth: str = "") -> str:
    """Plot the front beside what it has to beat.

    Args:
        search: with the reference as the first of its uncached runs.
        path: of the PNG or SVG.
        title: of the plot.
        unit: of the costs.
        truth: what errors are measured against; "": the reference.

    Returns:
        Why it was not plotted, with the cure, or "" where it was.
    """
    _, absent = available({PLOT: lambda: _save(search, path, title=title, unit=unit, truth=truth)})
    return absent.get(PLOT, "")


def _save(search: Search, path: Path, *, title: str, unit: str, truth: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6.5 if truth else 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    reference = search.uncached[0].candidate.sampling
    reuse = _lowest([result for result in search.reuse if result.candidate.sampling == reference])
    name = f"{reference.in_words}, plain reuse by its interval" if truth else "plain reuse, by its interval"
    _line(axes, reuse, name, {"color": "#888888", "marker": "o", "linestyle": "--"})
    _annotate(axes, reuse, [str(result.candidate.policy.cache_interval) for result in reuse])
    if truth:
        _plot_uncached(axes, search.uncached)
    _line(axes, search.front, "best plans", {"color": "#1a5fb4", "marker": "s", "drawstyle": "steps-post"})
    axes.axvline(100 * search.budget, color="#c01c28", linewidth=1, linestyle=":", label="budget")
    chosen = search.best.candidate
    _line(
        axes,
        [search.best],
        f"chosen: {chosen.in_words if truth else chosen.policy.in_words}",
        {"color": "#c01c28", "marker": "*", "markersize": 14, "linestyle": ""},
    )
    axes.set(
        title=title,
        xlabel=f"cost, % of the {unit} of {reference.in_words}, uncached"
        if truth
        else f"cost, % of the uncached {unit}",
        ylabel=f"error: distance from the latents of {truth}" if truth else "error: distance from the uncached latents",
        yscale="log",
    )
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(which="major", color="#dddddd")
    if truth:  # the names of samplers are long, and would hide what they tell
        figure.legend(fontsize=9, loc="outside lower left")
    else:
        axes.legend(fontsize=9)
    figure.savefig(path, dpi=120)


def _plot_uncached(axes: Any, results: Sequence[Result[DeepCache]]) -> None:
    """A line for each sampler, by its steps."""
    samplers = dict.fromkeys(result.candidate.sampling.sampler for result in results)
    for number, sampler in enumerate(samplers):
        runs = [result for result in results if result.candidate.sampling.sampler == sampler]
        runs.sort(key=lambda result: result.cost)
        look = {"color": _COLORS[number % len(_COLORS)], "marker": "D", "linestyle": "-.", "linewidth": 1}
        _line(axes, runs, f"{sampler.name}, uncached by its steps", look)
    lowest = _lowest(results)  # as many steps cost most samplers the same
    _annotate(axes, lowest, [str(result.candidate.sampling.steps) for result in lowest])


def _line(axes: Any, results: Sequence[Result[DeepCache]], label: str, look: dict[str, Any]) -> None:
    shown = [result for result in results if result.error > 0]  # the axis of errors is logarithmic
    costs, errors = [100 * result.cost for result in shown], [result.error for result in shown]
    axes.plot(costs, errors, label=label, **{"markersize": 4, **look})


def _annotate(axes: Any, results: Sequence[Result[DeepCache]], texts: Sequence[str]) -> None:
    for result, text in zip(results, texts, strict=True):
        if result.error > 0:
            place = 100 * result.cost, result.error
            axes.annotate(text, place, xytext=(4, 4), textcoords="offset points", fontsize=9, color="#666666")


def _lowest(results: Sequence[Result[DeepCache]]) -> list[Result[DeepCache]]:
    """Of those of one cost the best, from the cheapest on."""
    best = {round(result.cost, 6): result for result in sorted(results, key=lambda result: -result.error)}
    return [best[cost] for cost in sorted(best)]
