"""Plots of cells set beside each other."""

from collections.abc import Callable, Sequence
from typing import Any

from deepcache_trt.benchmarks.experiments.comparison.cells import Cell
from deepcache_trt.benchmarks.experiments.comparison.measure import Results


def by_line(results: Results) -> dict[str, list[tuple[float, Cell]]]:
    """The cells that have a place on the axis, by the line that they belong to and in the order of their places."""
    lines: dict[str, list[tuple[float, Cell]]] = {}
    for cell in results.cells:
        if cell.at is not None:
            lines.setdefault(cell.line, []).append((cell.at, cell))
    return {line: sorted(points, key=lambda point: point[0]) for line, points in lines.items()}


def error_and_time(results: Results, figure: Any, *, axis: str) -> None:
    """PSNR and speed-up over the axis, a line for each line of cells, beside each other."""
    fidelity, speed = figure.subplots(1, 2)
    over_the_axis(results, fidelity, lambda cell: _finite(results.median(cell.name, "psnr_db")))
    over_the_axis(results, speed, results.speed_up)
    fidelity.set(xlabel=axis, ylabel="PSNR against the reference, dB")
    speed.set(xlabel=axis, ylabel="speed-up of the loop")
    if len(by_line(results)) > 1:
        fidelity.legend(fontsize="small")


def over_the_axis(results: Results, panel: Any, value: Callable[[Cell], float | None]) -> None:
    """A value of each cell, where it has one, in a line for each line of cells."""
    for line, points in by_line(results).items():
        own = [(at, found) for at, cell in points if (found := value(cell)) is not None]
        if own:
            panel.plot(*zip(*own, strict=True), marker="o", markersize=4, label=line or None)
    panel.grid(color="#dddddd")
    panel.xaxis.get_major_locator().set_params(integer=True)


def _finite(value: float | None) -> float | None:
    return None if value is None or value == float("inf") else value


def strip(results: Results, rows: Sequence[int]) -> Any:
    """Pictures of every cell beside each other, a row for each sample: [H, W, 3] uint8."""
    import numpy as np

    return np.concatenate(
        [np.concatenate([results.image(cell, index) for cell in results.cells], axis=1) for index in rows]
    )


def fid_and_time(results: Results, figure: Any, *, axis: str) -> None:
    """FID and speed-up over the axis, a line for each line of cells, beside each other; dashed: the first cell's."""
    distance, speed = figure.subplots(1, 2)

    def fid(cell: Cell) -> float | None:
        return results.scores[cell.name].get("fid")

    over_the_axis(results, distance, fid)
    over_the_axis(results, speed, results.speed_up)
    uncached = fid(results.cells[0])
    if uncached is not None:
        distance.axhline(uncached, color="#888888", linestyle="--", linewidth=1, label=results.cells[0].name)
    distance.set(xlabel=axis, ylabel="Fréchet distance")
    speed.set(xlabel=axis, ylabel="speed-up of the loop")
    distance.legend(fontsize="small")
