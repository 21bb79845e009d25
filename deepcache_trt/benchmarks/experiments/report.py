"""What an experiment found, as a Markdown page and a plot."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepcache_trt.benchmarks.experiments.experiment import Findings
from deepcache_trt.benchmarks.fidelity.distances import available
from deepcache_trt.benchmarks.report import markdown_table
from deepcache_trt.benchmarks.sampling.place import written

_PLOT = "plot"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run found, in words.

    Attributes:
        experiment: its name.
        says: what it shows.
        command: that wrote it.
        header: of the table.
        lines: of cells of text.
        remarks: see `Findings`.
        environment: the machine and versions.
    """

    experiment: str
    says: str
    command: str
    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    remarks: tuple[str, ...]
    environment: Mapping[str, str]


def report_of(
    experiment: str, says: str, findings: Findings, *, command: str, environment: Mapping[str, str]
) -> Report:
    """What a run found."""
    return Report(
        experiment=experiment,
        says=says,
        command=command,
        header=tuple(findings.header),
        lines=tuple(map(tuple, findings.lines)),
        remarks=tuple(findings.remarks),
        environment=environment,
    )


def markdown(report: Report, *, plot: str, level: int = 1) -> str:
    """A page, or a section of one.

    Args:
        report: what was found.
        plot: the file to show; "": there is none.
        level: of the heading.
    """
    parts = [f"{'#' * level} {report.experiment}", report.says, f"Written by `{report.command}`."]
    parts += [markdown_table(report.header, report.lines), "\n".join(f"- {remark}" for remark in report.remarks)]
    if plot:
        parts.append(f"![{report.experiment}]({plot})")
    machine = ("GPU", "CPU", "deepcache-trt", "packages", "date") if level > 1 else report.environment
    parts.append(markdown_table(["", ""], [[name, report.environment[name]] for name in machine]))
    return "\n\n".join(parts) + "\n"


def save_plot(plot: Callable[[Any], None] | None, folder: Path) -> str:
    """Plot into plot.png and plot.svg; returns why it was not done, with the cure, or ""."""
    if plot is None:
        return ""
    _, absent = available({_PLOT: lambda: _save(plot, folder)})
    return absent.get(_PLOT, "")


def _save(plot: Callable[[Any], None], folder: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    plot(figure)
    with written(folder):
        for suffix in ("png", "svg"):
            # A date would make two plots of the same results differ.
            metadata = {"Date": None} if suffix == "svg" else None
            figure.savefig(folder / f"plot.{suffix}", dpi=150, metadata=metadata)
