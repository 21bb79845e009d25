"""The table of cells set beside each other."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from deepcache_trt.benchmarks.experiments.comparison.measure import Results
from deepcache_trt.benchmarks.experiments.experiment import Findings

# Column → (figure, format); those that nobody has are left out.
_FIGURES: Mapping[str, tuple[str, str]] = {
    "PSNR, dB": ("psnr_db", "{:.1f}"),
    "SSIM": ("ssim", "{:.4f}"),
    "LPIPS": ("lpips", "{:.4f}"),
    "MSE of two seeds": ("mse_apart", "{:.4f}"),
    "LPIPS of two seeds": ("lpips_apart", "{:.4f}"),
}

# The same for what is of all pictures of a cell together.
_SCORES: Mapping[str, tuple[str, str]] = {
    "CLIP score": ("clip_mean", "{:.2f}"),
    "its deviation": ("clip_deviation", "{:.2f}"),
    "read as asked": ("accuracy", "{:.1%}"),
    "Fréchet": ("fid", "{:.3f}"),
    "spatial Fréchet": ("sfid", "{:.3f}"),
    "Inception score": ("inception_score", "{:.3f}"),
    "precision": ("precision", "{:.3f}"),
    "recall": ("recall", "{:.3f}"),
    "published speed-up": ("published_speedup", "{:.2f}×"),
    "published FID": ("published_fid", "{:.2f}"),
    "published CLIP": ("published_clip", "{:.2f}"),
}


def findings(results: Results, *, steps: int, plot: Callable[[Results, Any], None] | None = None) -> Findings:
    """A line for each cell: cost and speed beside its reference, medians of figures, scores.

    Args:
        results: what was measured.
        steps: of denoising, which the table is headed by.
        plot: draws the results.
    """
    figures, scores = _shown(_FIGURES, results.figures), _shown(_SCORES, results.scores)
    lines = []
    for cell in results.cells:
        beside = cell.reference or cell.name
        share = f"{results.macs[cell.name] / results.macs[beside]:.1%}" if results.macs.get(cell.name) else ""
        kept = f"{results.kept[cell.name] / 1e6:.3g}" if results.kept.get(cell.name) else ""
        line = [
            cell.name,
            share,
            kept,
            in_words(results.loop(cell), "{:.3g}"),
            in_words(results.speed_up(cell), "{:.2f}×"),
        ]
        line += [in_words(results.median(cell.name, figure), form) for figure, form in figures.values()]
        line += [in_words(results.scores[cell.name].get(score), form) for score, form in scores.values()]
        lines.append(line)
    return Findings(
        header=["", "operations", "kept, MB", "s an image", "speed-up", *figures, *scores],
        lines=lines,
        remarks=_remarks(results, steps),
        plot=None if plot is None else lambda figure: plot(results, figure),
    )


def _shown(
    columns: Mapping[str, tuple[str, str]], found: Mapping[str, Mapping[str, Any]]
) -> dict[str, tuple[str, str]]:
    return {name: each for name, each in columns.items() if any(each[0] in own for own in found.values())}


def _remarks(results: Results, steps: int) -> list[str]:
    samples = results.samples
    compared = any(cell.reference for cell in results.cells)
    said = (
        f"{len(samples):,} pictures of each, {steps} steps, {samples.batch} in a batch, medians; operations of the "
        "denoiser and the tensors that it keeps from step to step are those of one picture"
    )
    if compared:
        said += (
            "; speed-ups are of batches that were drawn one after the other; figures are of the 8-bit pictures beside "
            "those of the reference from the same noise; = where nothing differs"
        )
    return [said, *results.remarks, *(f"no {figure}: {reason}" for figure, reason in results.absent.items())]


def in_words(value: float | None, form: str) -> str:
    """A figure in a table: "=" where nothing differs."""
    if value is None:
        return ""
    return "=" if math.isinf(value) else form.format(value)
