"""A benchmark's result as Markdown, in the layout in which DeepCache's table is published."""

from collections.abc import Sequence
from dataclasses import replace

from deepcache_trt.benchmarks.bench.figures import LOOP, SECONDS, Figures
from deepcache_trt.benchmarks.bench.grid import DEEPCACHE, NAMES, REFERENCE, Cell, is_ours, label_of
from deepcache_trt.benchmarks.bench.published import published_speedup
from deepcache_trt.benchmarks.report import gib, markdown_table
from deepcache_trt.benchmarks.timing.published_table import HARDWARE, MODEL, STEPS
from deepcache_trt.benchmarks.timing.turns import Outcome, spread


def markdown(figures: Figures) -> str:
    """The report of a result, finished or not."""
    settings = figures.settings
    weights = "seeded weights" if settings.random_weights else "its own weights"
    drawn = f"{settings.steps} steps of DDIM with guidance, {settings.dtype}"
    kept = (
        " None gave freed memory back to the system, which makes eager PyTorch a third slower in some processes."
        if settings.device == "cpu"
        else ""
    )
    missing = len(settings.cells) - len(figures.outcomes)
    sections = [
        f"## {settings.model} on {figures.hardware}",
        f"`{figures.command}`, {_when(figures)}: {settings.model} with {weights}, {drawn}. Every system ran in a "
        f"process of its own, one call in turn, {settings.repeats} after the first; medians.{kept}",
        f"**{missing} of {len(settings.cells)} cells are not measured yet.**" if missing else "",
        "### Seconds of a call, speed-up over the plain column, and fidelity",
        _grid(figures),
        f"PSNR is that of the final latents against those of plain {REFERENCE} from the same noise. The package caches "
        "on eager diffusers, which is its plain column, and knows an interval and a branch alone; the compiled "
        "pipeline has no cached columns. *Operations allow* counts the U-Net's, products of attention included.",
        _ahead(figures),
        "### Where the time goes",
        _details(figures),
        "*Image* is a whole call; text encoder, loop and decoder are its parts. *Share*: the speed-up of the loop over "
        "that which operations allow. *Peak* is the most memory that the process held, pages of mapped files included.",
        _builds(figures),
        _failures(figures),
        markdown_table(["", ""], [[name, value] for name, value in _facts(figures).items()]),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _when(figures: Figures) -> str:
    return f"{figures.began} to {figures.ended}" if figures.ended else figures.began


def _grid(figures: Figures) -> str:
    columns = figures.settings.cells[: 1 + len(figures.settings.caching)]
    lines: list[list[str]] = []
    for row in figures.rows:
        cells = [replace(row, policy=column.policy) for column in columns]
        head = [f"{row.pixels}", f"{row.batch}"]
        lines += [[*head, label_of(name), *(_result(figures, cell, name) for cell in cells)] for name in figures.names]
        allowed = [figures.allowed(cell) for cell in cells]
        if any(allowed):
            lines.append([*head, "*operations allow*", *map(_times, allowed)])
        published = [published_speedup(cell) if _is_published(figures) else None for cell in cells]
        if any(published):
            lines.append([*head, f"*published, {HARDWARE}*", *map(_times, published)])
    return markdown_table(["pixels", "batch", "", *(column.column for column in columns)], lines)


def _is_published(figures: Figures) -> bool:
    return (figures.settings.model, figures.settings.steps) == (MODEL, STEPS)


def _result(figures: Figures, cell: Cell, name: str) -> str:
    outcome = figures.outcome(cell, name)
    if outcome is None:
        return "" if cell not in figures.outcomes else _absence(cell, name)
    if outcome.error:
        return _verdict(outcome)
    decibels = figures.distances[cell].get(outcome.name, {}).get("psnr_db")
    told = [f"{figures.median(cell, name):.3g} s", _times(figures.speedup(cell, name))]
    told += [] if decibels is None else [f"{decibels:.1f} dB"]
    return ", ".join(filter(None, told))


def _absence(cell: Cell, name: str) -> str:
    """Why a system was not asked for a cell."""
    return "no such plan" if name == NAMES[DEEPCACHE] and cell.published_form is None else "–"


def _verdict(outcome: Outcome) -> str:
    if outcome.error.startswith("not installed"):
        return "not installed"
    return "out of memory" if outcome.is_out_of_memory else "failed"


def _ahead(figures: Figures) -> str:
    margins = figures.margins
    if not margins:
        return ""
    peers = list(dict.fromkeys(margin.peer for margin in margins))
    pairs = dict.fromkeys((margin.cell, margin.ours) for margin in margins)
    ratios = {(margin.cell, margin.ours, margin.peer): margin.ratio for margin in margins}

    def shown(cell: Cell, ours: str, peer: str) -> str:
        ratio = ratios.get((cell, ours, peer))
        return "–" if ratio is None else f"{ratio.median:.2f}× ({ratio.low:.2f} – {ratio.high:.2f})"

    least = min(margins, key=lambda margin: margin.ratio.median)
    behind = [margin for margin in margins if margin.ratio.median <= 1]
    verdict = (
        f"Behind in {', '.join(f'{m.cell.title} ({m.ours} against {m.peer})' for m in behind)}."
        if behind
        else "Ours is ahead of every system in every cell."
    )
    table = [[cell.title, ours, *(shown(cell, ours, peer) for peer in peers)] for cell, ours in pairs]
    return "\n\n".join(
        [
            "### How many times as long as ours the others take",
            markdown_table(["cell", "", *peers], table),
            f"The median of the rounds' ratios; in brackets the least and the most. {verdict} The smallest ratio is "
            f"{least.ratio.median:.2f}×: {least.cell.title}, {least.peer}.",
        ]
    )


def _details(figures: Figures) -> str:
    header = ["cell", "", "load, s", "capture, s", "first call, s", "image, s", "min – max", "text, s", "loop, s"]
    header += ["decoder, s", "loop speed-up", "share", "relative L2", "PSNR, dB", "peak, GiB", "on the GPU, GiB"]
    lines = []
    for cell, outcomes in figures.outcomes.items():
        for name, outcome in outcomes.items():
            if outcome.error:
                continue
            seconds, distances = spread(outcome.figures(SECONDS)), figures.distances[cell].get(name, {})
            parts = [figures.median(cell, name, f"{part}_seconds") for part in ("text", "loop", "decoder")]
            speedup, share = figures.speedup(cell, name, LOOP), figures.share(cell, name)
            lines.append(
                [
                    *(cell.title, name, _number(outcome.load_seconds), _number(outcome.first.get("capture_seconds"))),
                    *(_number(outcome.first_call_seconds), f"{seconds.median:.3g}"),
                    f"{seconds.low:.3g} – {seconds.high:.3g}",
                    *(map(_number, parts)),
                    *(_times(speedup), "" if share is None else f"{100 * share:.0f} %"),
                    *(_number(distances.get("error")), _number(distances.get("psnr_db"))),
                    *(gib(outcome.peak_bytes), gib(outcome.first["gpu_bytes"]) if "gpu_bytes" in outcome.first else ""),
                ]
            )
    empty = [i for i in range(len(header)) if not any(line[i] for line in lines)]
    return markdown_table(_without(header, empty), [_without(line, empty) for line in lines])


def _builds(figures: Figures) -> str:
    lines = [
        [
            build.row.row,
            build.backend,
            _number(build.seconds),
            ", ".join(build.built) or ("" if build.error else "the store had them all"),
        ]
        for build in figures.builds
    ]
    table = markdown_table(["engines for", "backend", "s", "built"], lines)
    return (
        f"### Building\n\nExport, build and check, in a process of their own, before the cells.\n\n{table}"
        if lines
        else ""
    )


def _failures(figures: Figures) -> str:
    failed = [
        f"- {cell.title}, {name}: {outcome.error}"
        for cell, outcomes in figures.outcomes.items()
        for name, outcome in outcomes.items()
        if outcome.error
    ]
    failed += [
        f"- {row.row}, {outcome.name}: {outcome.error}" for row, outcome in figures.references.items() if outcome.error
    ]
    failed += [
        f"- {cell.title}: {', '.join(names)} did not fit beside the others and ran alone"
        for cell, names in figures.alone.items()
        if names
    ]
    return "\n".join(["### What failed", "", *failed]) if failed else ""


def _facts(figures: Figures) -> dict[str, str]:
    others = {
        name: ", ".join(f"{package} {version}" for package, version in outcome.first["packages"].items())
        for outcomes in figures.outcomes.values()
        for name, outcome in outcomes.items()
        if not is_ours(name) and "packages" in outcome.first
    }
    return {**figures.environment, **{f"packages of {name}": packages for name, packages in others.items()}}


def _without(line: Sequence[str], columns: Sequence[int]) -> list[str]:
    return [cell for i, cell in enumerate(line) if i not in columns]


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}×"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
