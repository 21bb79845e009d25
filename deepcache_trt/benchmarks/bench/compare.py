"""Two results of `deepcache-trt bench` beside each other, cell by cell."""

from collections.abc import Callable, Sequence
from dataclasses import fields

from deepcache_trt.benchmarks.bench.figures import Figures
from deepcache_trt.benchmarks.bench.grid import Cell, Settings
from deepcache_trt.benchmarks.report import markdown_table
from deepcache_trt.errors import DeepCacheError

# What two results may differ in and still be of the same thing: a part of a grid, by whatever systems, once more often.
_FREE = ("sizes", "batches", "caching", "systems", "backends", "repeats")

_HARDWARE = ("GPU", "compute capability", "CPU", "memory")


def differences(new: Settings, old: Settings, *, ignoring: Sequence[str] = ()) -> list[str]:
    """What two settings disagree about, in words."""
    return [
        f"{field.name} {getattr(old, field.name)} against {getattr(new, field.name)}"
        for field in fields(Settings)
        if field.name not in ignoring and getattr(old, field.name) != getattr(new, field.name)
    ]


def check(new: Settings, old: Settings) -> None:
    """Whether results of two settings can be set beside each other.

    Raises:
        DeepCacheError: the model or a setting differs.
    """
    changed = differences(new, old, ignoring=_FREE)
    if changed:
        raise DeepCacheError(
            f"these results are not of the same thing: {'; '.join(changed)}; measure one of them again with the other's"
        )


def compare(new: Figures, old: Figures) -> str:
    """The ratio of each cell that both have, as Markdown: of seconds, of speed-ups, and of the margins of ours.

    Raises:
        DeepCacheError: the model or a setting differs, or no cell is in both.
    """
    check(new.settings, old.settings)
    ratios = {
        "seconds": _ratios(_by_cell(new, new.median), _by_cell(old, old.median)),
        "speed-up over plain": _ratios(_by_cell(new, new.speedup), _by_cell(old, old.speedup)),
        "how many times as long as ours": _ratios(_margins(new), _margins(old)),
    }
    if not ratios["seconds"]:
        raise DeepCacheError("no cell has been measured in both results; compare results of the same grid")
    keys = dict.fromkeys(key for column in ratios.values() for key in column)
    lines = [[*key, *(f"{column[key]:.3f}" if key in column else "" for column in ratios.values())] for key in keys]
    most = [
        f"{name} by at most {100 * max(abs(ratio - 1) for ratio in column.values()):.1f} %"
        for name, column in ratios.items()
        if column
    ]
    return "\n\n".join(
        [
            "## This result ÷ another",
            f"The other: `{old.command}`, {old.began}.",
            *_warnings(new, old),
            f"Differ: {'; '.join(most)}.",
            markdown_table(["cell", "", *ratios], lines),
        ]
    )


Keyed = dict[tuple[str, str], float]


def _ratios(new: Keyed, old: Keyed) -> Keyed:
    return {key: value / old[key] for key, value in new.items() if key in old}


def _by_cell(figures: Figures, value_of: Callable[[Cell, str], float | None]) -> Keyed:
    """A figure of every system in every cell that has it."""
    values = {
        (cell.title, name): value_of(cell, name) for cell, outcomes in figures.outcomes.items() for name in outcomes
    }
    return {key: value for key, value in values.items() if value is not None}


def _margins(figures: Figures) -> Keyed:
    return {(margin.cell.title, margin.peer): margin.ratio.median for margin in figures.margins}


def _warnings(new: Figures, old: Figures) -> list[str]:
    changed = [
        f"{name} {old.environment.get(name, 'none')} → {new.environment.get(name, 'none')}"
        for name in _HARDWARE
        if old.environment.get(name) != new.environment.get(name)
    ]
    return [f"**Not the same hardware:** {'; '.join(changed)}."] if changed else []
