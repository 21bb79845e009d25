"""What an experiment found, as a Markdown table and a plot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepcache_trt.benchmarks.experiments.experiment import Cell, Experiment
from deepcache_trt.benchmarks.experiments.measure import Results, in_words
from deepcache_trt.benchmarks.experiments.results_folder import ResultsFolder
from deepcache_trt.benchmarks.fidelity.distances import available
from deepcache_trt.benchmarks.report import markdown_table

# Column → (figure, format); those that nobody has are left out.
_FIGURES: Mapping[str, tuple[str, str]] = {
    "PSNR, dB": ("psnr_db", "{:.1f}"),
    "SSIM": ("ssim", "{:.4f}"),
    "LPIPS": ("lpips", "{:.4f}"),
    "CLIP score": ("clip_score", "{:.2f}"),
    "MSE of two seeds": ("mse_apart", "{:.4f}"),
    "LPIPS of two seeds": ("lpips_apart", "{:.4f}"),
}

PLOT = "plot"


def table(results: Results) -> tuple[list[str], list[list[str]]]:
    """The header and a line for each cell: cost and speed beside its reference, medians of figures, scores."""
    shown = [name for name, (figure, _) in _FIGURES.items() if any(figure in own for own in results.figures.values())]
    scored = any("accuracy" in own for own in results.scores.values())
    header = ["", "operations", "s an image", "speed-up", *shown, *(["read as asked"] if scored else [])]
    lines = []
    for cell in results.cells:
        beside = cell.reference or cell.name
        share = f"{results.macs[cell.name] / results.macs[beside]:.1%}" if results.macs.get(cell.name) else ""
        line = [cell.name, share, in_words(results.loop(cell), "{:.3g}"), in_words(results.speed_up(cell), "{:.2f}×")]
        line += [
            in_words(results.median(cell.name, figure), form) for figure, form in (_FIGURES[each] for each in shown)
        ]
        lines.append(line + ([f"{results.scores[cell.name]['accuracy']:.1%}"] if scored else []))
    return header, lines


def remarks(results: Results) -> list[str]:
    """What has to be known to read the table."""
    samples = results.samples
    said = [
        f"{len(samples):,} pictures of each, {samples.steps} steps, {samples.batch} in a batch, medians; speed-ups are "
        f"of batches that were drawn one after the other; figures are of the 8-bit pictures beside those of the "
        f"reference from the same noise; = where nothing differs"
    ]
    return said + [f"no {figure}: {reason}" for figure, reason in results.absent.items()]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run found, in words.

    Attributes:
        experiment: its name.
        says: what it shows.
        command: that wrote it.
        header: of the table.
        lines: of cells of text.
        remarks: see `remarks`.
        environment: the machine and versions.
    """

    experiment: str
    says: str
    command: str
    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    remarks: tuple[str, ...]
    environment: Mapping[str, str]


def report_of(experiment: Experiment, results: Results, *, command: str, environment: Mapping[str, str]) -> Report:
    """What a run found."""
    header, lines = table(results)
    return Report(
        experiment=experiment.name,
        says=experiment.says,
        command=command,
        header=tuple(header),
        lines=tuple(map(tuple, lines)),
        remarks=tuple(remarks(results)),
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


def save_plot(experiment: Experiment, results: Results, folder: ResultsFolder) -> str:
    """Plot into plot.png and plot.svg; returns why it was not done, with the cure, or ""."""
    if experiment.plot is None:
        return ""
    _, absent = available({PLOT: lambda: _save(experiment, results, folder)})
    return absent.get(PLOT, "")


def _save(experiment: Experiment, results: Results, folder: ResultsFolder) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    assert experiment.plot is not None
    experiment.plot(results, figure)
    for suffix in ("png", "svg"):
        # A date would make two plots of the same results differ.
        figure.savefig(folder.path / f"plot.{suffix}", dpi=150, metadata={"Date": None} if suffix == "svg" else None)


def by_line(results: Results) -> dict[str, list[tuple[float, Cell]]]:
    """The cells that have a place on the axis, by the line that they belong to and in the order of their places."""
    lines: dict[str, list[tuple[float, Cell]]] = {}
    for cell in results.cells:
        if cell.at is not None:
            lines.setdefault(cell.line, []).append((cell.at, cell))
    return {line: sorted(points, key=lambda point: point[0]) for line, points in lines.items()}


def plot_error_and_time(results: Results, figure: Any, axis: str) -> None:
    """PSNR and speed-up over the axis, a line for each line of cells, beside each other."""
    fidelity, speed = figure.subplots(1, 2)
    for line, points in by_line(results).items():
        near = [(at, value) for at, cell in points if (value := _finite(results.median(cell.name, "psnr_db")))]
        fast = [(at, value) for at, cell in points if (value := results.speed_up(cell))]
        for panel, own in ((fidelity, near), (speed, fast)):
            if own:
                panel.plot(*zip(*own, strict=True), marker="o", markersize=4, label=line or None)
    fidelity.set(xlabel=axis, ylabel="PSNR against the reference, dB")
    speed.set(xlabel=axis, ylabel="speed-up of the loop")
    for panel in (fidelity, speed):
        panel.grid(color="#dddddd")
        panel.xaxis.get_major_locator().set_params(integer=True)
    if any(by_line(results)):
        fidelity.legend(fontsize="small")


def _finite(value: float | None) -> float | None:
    return None if value is None or value == float("inf") else value


def strip(results: Results, rows: Sequence[int]) -> Any:
    """Pictures of every cell beside each other, a row for each sample: [H, W, 3] uint8."""
    import numpy as np

    return np.concatenate(
        [np.concatenate([results.image(cell, index) for cell in results.cells], axis=1) for index in rows]
    )
