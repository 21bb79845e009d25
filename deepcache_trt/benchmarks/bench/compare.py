"""Two results of `deepcache-trt bench` beside each other, cell by cell."""

from collections.abc import Mapping
from typing import Any

from deepcache_trt.benchmarks.bench.figures import Figures
from deepcache_trt.benchmarks.bench.grid import Settings, differences, settings_from
from deepcache_trt.benchmarks.report import markdown_table
from deepcache_trt.errors import DeepCacheError

# What two results may differ in and still be of the same thing: a part of a grid, by whatever systems, once more often.
_FREE = ("sizes", "batches", "caching", "systems", "backends", "repeats")

_HARDWARE = ("GPU", "compute capability", "CPU", "memory")


def check(settings: Settings, old: Mapping[str, Any]) -> None:
    """Whether what is measured with these settings can be set beside a result.

    Raises:
        DeepCacheError: the model or a setting differs.
    """
    changed = differences(settings, settings_from(old["settings"]), ignoring=_FREE)
    if changed:
        raise DeepCacheError(
            f"these results are not of the same thing: {'; '.join(changed)}; measure one of them again with the other's"
        )


def compare(new: Mapping[str, Any], old: Mapping[str, Any]) -> str:
    """The ratio of each cell that both have, as Markdown: of seconds, of speed-ups, and of the margins of ours.

    Raises:
        DeepCacheError: the model or a setting differs, or no cell is in both.
    """
    figures, before = Figures(new), Figures(old)
    check(figures.settings, old)
    ratios = {
        "seconds": _ratios(_seconds(figures), _seconds(before)),
        "speed-up over plain": _ratios(_speedups(figures), _speedups(before)),
        "how many times as long as ours": _ratios(_margins(figures), _margins(before)),
    }
    if not ratios["seconds"]:
        raise DeepCacheError("no cell has been measured in both results; compare results of the same grid")
    keys = dict.fromkeys(key for found in ratios.values() for key in found)
    lines = [[*key, *(f"{found[key]:.3f}" if key in found else "" for found in ratios.values())] for key in keys]
    most = [
        f"{name} by at most {100 * max(abs(ratio - 1) for ratio in found.values()):.1f} %"
        for name, found in ratios.items()
        if found
    ]
    return "\n\n".join(
        [
            "## This result ÷ another",
            f"The other: `{old['command']}`, {old['environment']['date']}.",
            *_warnings(figures, before),
            f"Differ: {'; '.join(most)}.",
            markdown_table(["cell", "", *ratios], lines),
        ]
    )


Keyed = dict[tuple[str, str], float]


def _ratios(new: Keyed, old: Keyed) -> Keyed:
    return {key: value / old[key] for key, value in new.items() if key in old}


def _seconds(figures: Figures) -> Keyed:
    found = {
        (cell.title, name): figures.median(cell, name)
        for cell, outcomes in figures.outcomes.items()
        for name in outcomes
    }
    return {key: value for key, value in found.items() if value is not None}


def _speedups(figures: Figures) -> Keyed:
    found = {
        (cell.title, name): figures.speedup(cell, name)
        for cell, outcomes in figures.outcomes.items()
        for name in outcomes
        if not cell.is_plain
    }
    return {key: value for key, value in found.items() if value is not None}


def _margins(figures: Figures) -> Keyed:
    return {(margin.cell.title, margin.peer): margin.ratio.median for margin in figures.margins}


def _warnings(figures: Figures, before: Figures) -> list[str]:
    new, old = figures.environment, before.environment
    changed = [
        f"{name} {old.get(name, 'none')} → {new.get(name, 'none')}"
        for name in _HARDWARE
        if old.get(name) != new.get(name)
    ]
    return [f"**Not the same hardware:** {'; '.join(changed)}."] if changed else []
