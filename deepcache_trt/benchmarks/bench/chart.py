"""A benchmark's record as a chart: seconds of each system, a panel for each size and batch."""

from pathlib import Path
from typing import Any

from deepcache_trt.benchmarks.bench.figures import Figures
from deepcache_trt.benchmarks.bench.grid import Cell, label_of
from deepcache_trt.errors import BackendError, DeepCacheError

FORMATS = (".svg", ".png")

_PANEL_INCHES = (5.5, 3.6)
_ACROSS = 3


def check(path: Path) -> None:
    """Refuse what cannot be drawn, before anything is measured.

    Raises:
        DeepCacheError: another suffix than those of `FORMATS`.
        BackendError: there is no matplotlib.
    """
    if path.suffix.lower() not in FORMATS:
        raise DeepCacheError(f"--chart {path.name} is neither SVG nor PNG; let its name end in {' or '.join(FORMATS)}")
    try:
        import matplotlib  # noqa: F401 - is it there?
    except ImportError as error:
        raise BackendError("a chart needs matplotlib; pip install 'deepcache-trt[eval]'") from error


def draw(figures: Figures, path: Path) -> None:
    """Write the chart of a result, as SVG with text that can be searched, or as PNG."""
    check(path)
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, across = figures.rows, min(_ACROSS, len(figures.rows))
    down = -(-len(rows) // across)
    with mpl.rc_context({"svg.fonttype": "none"}):
        figure = Figure(figsize=(across * _PANEL_INCHES[0], down * _PANEL_INCHES[1] + 1), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(down, across, squeeze=False).flatten()
        for panel, row in zip(panels, rows, strict=False):
            _draw_row(panel, figures, row)
        for panel in panels[len(rows) :]:
            panel.set_visible(False)
        figure.legend(*_legend(panels[: len(rows)]), loc="outside lower center", ncols=across, fontsize="small")
        settings = figures.settings
        figure.suptitle(
            f"{settings.model}, {settings.steps} steps, {settings.dtype}, on {figures.hardware}", fontsize="medium"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)


def _draw_row(panel: Any, figures: Figures, row: Cell) -> None:
    cells = [cell for cell in figures.settings.cells if cell.plain == row]
    width = 0.8 / len(figures.names)
    for place, name in enumerate(figures.names):
        medians = [(i, figures.median(cell, name)) for i, cell in enumerate(cells)]
        points = [
            (i + (place - (len(figures.names) - 1) / 2) * width, value) for i, value in medians if value is not None
        ]
        places, heights = [x for x, _ in points], [value for _, value in points]
        bars = panel.bar(places, heights, width, label=label_of(name), color=f"C{place}")
        panel.bar_label(bars, fmt="%.3g", fontsize="x-small")
    panel.set_xticks(range(len(cells)), [cell.column for cell in cells])
    panel.set_title(row.row, fontsize="medium")
    panel.set_ylabel("seconds of a call")
    panel.spines[["top", "right"]].set_visible(False)


def _legend(panels: Any) -> tuple[list[Any], list[str]]:
    handles = {
        label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    return list(handles.values()), list(handles)
