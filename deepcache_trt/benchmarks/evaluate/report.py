"""What `deepcache-trt eval` prints: a table, as cells of text."""

import math
from collections.abc import Mapping, Sequence

from deepcache_trt.benchmarks.evaluate.measure import Evaluation, Row
from deepcache_trt.benchmarks.report import markdown_table

# Column → (figure, format). Figures that nobody has are left out.
_FIGURES: Mapping[str, tuple[str, str]] = {
    "latent MSE": ("latent_mse", "{:.2e}"),
    "PSNR, dB": ("psnr_db", "{:.1f}"),
    "SSIM": ("ssim", "{:.4f}"),
    "LPIPS": ("lpips", "{:.4f}"),
    "CLIP score": ("clip_score", "{:.2f}"),
    "accuracy": ("accuracy", "{:.1%}"),
    "Fréchet": ("frechet", "{:.3f}"),
    "FID": ("fid", "{:.2f}"),
    "KID": ("kid", "{:.5f}"),
    "IS": ("inception_score", "{:.2f}"),
}


# The same where samplers are compared, whose latents differ in how well they are solved for.
_OF_SAMPLERS: Mapping[str, tuple[str, str]] = {
    "error": ("latent_error", "{:.4f}"),
    **{name: figure for name, figure in _FIGURES.items() if name != "latent MSE"},
    "error of caching": ("caching_error", "{:.4f}"),
}


def table(evaluation: Evaluation) -> tuple[list[str], list[list[str]]]:
    """The header and the lines.

    They are the reference, the uncached engines, then each setting with its rivals; of several samplers everything, the
    fastest first, and a mark at what nothing as fast is nearer than.
    """
    return _table_of_samplers(evaluation) if evaluation.truth else _table_of_settings(evaluation)


def _table_of_samplers(evaluation: Evaluation) -> tuple[list[str], list[list[str]]]:
    rows, images = evaluation.rows, len(evaluation.scene.prompts)
    shown = _shown(rows, _OF_SAMPLERS)
    header = ["", "best", "MACs", "s an image", "speed-up", *shown]
    slow, lines = _seconds(rows[0]), []
    nearest = math.inf
    for row in sorted(rows, key=lambda row: (_seconds(row), _error(row))):
        is_best, nearest = _error(row) < nearest, min(nearest, _error(row))
        cells = [row.contender.name, "✓" if is_best else "", f"{row.macs_share:.1%}"]
        cells += [f"{_seconds(row) / images:.3g}", f"{slow / _seconds(row):.2f}×"]
        lines.append([*cells, *(_cell(row, *_OF_SAMPLERS[name]) for name in shown)])
    return header, lines


def _seconds(row: Row) -> float:
    return row.median("loop_seconds") or math.inf


def _error(row: Row) -> float:
    return row.median("latent_error") or 0.0


def _shown(rows: Sequence[Row], figures: Mapping[str, tuple[str, str]]) -> list[str]:
    """The columns that any row has a figure for."""
    return [name for name, (figure, _) in figures.items() if any(_value(row, figure) is not None for row in rows)]


def _table_of_settings(evaluation: Evaluation) -> tuple[list[str], list[list[str]]]:
    rows = evaluation.rows
    reference = rows[0]
    shown = _shown(rows, _FIGURES)
    header = ["", "MACs", "loop, s", "speed-up", *shown]
    lines = []
    for row, label in _in_groups(rows):
        seconds, slow = row.median("loop_seconds") or 0.0, reference.median("loop_seconds") or 0.0
        cells = [label, f"{row.macs_share:.1%}", f"{seconds:.3g}", f"{slow / seconds:.2f}×"]
        lines.append([*cells, *(_cell(row, *_FIGURES[name]) for name in shown)])
    return header, lines


def _in_groups(rows: Sequence[Row]) -> list[tuple[Row, str]]:
    grouped = []
    for row in rows:
        name = row.contender.name
        if row.contender.rival_of:
            continue
        grouped.append((row, name))
        grouped += [
            (rival, f"  same time: {rival.contender.name}") for rival in rows if name in rival.contender.rival_of
        ]
    return grouped


def _value(row: Row, figure: str) -> float | None:
    return row.scores.get(figure, row.median(figure))


def _cell(row: Row, figure: str, form: str) -> str:
    value = _value(row, figure)
    if value is None:
        return "∞" if row.samples.get(figure) else ""
    return form.format(value)


def remarks(evaluation: Evaluation) -> list[str]:
    """What has to be said beside the table."""
    scene, count = evaluation.scene, len(evaluation.seeds)
    said = (
        f"{len(scene.prompts)} {'picture' if len(scene.prompts) == 1 else 'pictures'} in a batch, {count} "
        f"{'seed' if count == 1 else 'seeds'}, medians; "
    )
    if evaluation.truth:
        said += (
            f"fidelity against the solution that samplers approximate, by {evaluation.truth}, from the same noise: "
            "those that draw noise at their steps lead elsewhere; ✓: nothing as fast is nearer to it; error of "
            "caching: against the same sampler and steps, uncached; speed-up and MACs: of the denoiser's calls, over "
            f"{evaluation.rows[0].contender.name}"
        )
    else:
        said += (
            "fidelity against the first row, from the same noise; MACs: of the denoiser's calls, over those of the "
            "first row"
        )
    missing = [f"no {figure}: {reason}" for figure, reason in evaluation.absent.items()]
    return [said, *evaluation.notes, *missing]


def markdown(evaluation: Evaluation, *, title: str, command: str, environment: Mapping[str, str]) -> str:
    """The whole report."""
    header, lines = table(evaluation)
    return (
        "\n\n".join(
            [
                f"# {title}",
                f"Written by `{command}`.",
                markdown_table(header, [[cell.strip() for cell in line] for line in lines]),
                "\n".join(f"- {remark}" for remark in remarks(evaluation)),
                markdown_table(["", ""], [[name, value] for name, value in environment.items()]),
            ]
        )
        + "\n"
    )
