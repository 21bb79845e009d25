"""A benchmark's record as Markdown, in the layout in which DeepCache's table is published."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from deepcache_trt.benchmarks.bench.figures import LOOP, SECONDS, Figures
from deepcache_trt.benchmarks.bench.grid import DEEPCACHE, OURS, Cell, cell_from
from deepcache_trt.benchmarks.bench.measure import is_out_of_memory
from deepcache_trt.benchmarks.bench.published import HARDWARE, MODEL, STEPS, published_speedup
from deepcache_trt.benchmarks.bench.stage import NAMES, REFERENCE
from deepcache_trt.benchmarks.report import gib, markdown_table
from deepcache_trt.benchmarks.timing.turns import Outcome, spread


def markdown(record: Mapping[str, Any]) -> str:
    """The report of a record of `bench.measure`, finished or not."""
    figures = Figures(record)
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
        f"`{record['command']}`, {_when(record)}: {settings.model} with {weights}, {drawn}. Every system ran in a "
        f"process of its own, one call in turn, {settings.repeats} after the first; medians.{kept}",
        f"**{missing} of {len(settings.cells)} cells are not measured yet.**" if missing else "",
        "### Seconds of a call, speed-up over the plain column, and fidelity",
        _grid(figures),
        f"PSNR is that of the final latents against those of plain {REFERENCE} from the same noise. The package caches "
        "on eager diffusers, which is its plain column; the compiled pipeline has no cached ones. *Operations allow* "
        "counts the U-Net's, products of attention included.",
        _ahead(figures),
        "### Where the time goes",
        _details(figures),
        "*Image* is a whole call; text encoder, loop and decoder are its parts. *Share*: the speed-up of the loop over "
        "that which operations allow. *Peak* is the most memory that the process held, pages of mapped files included.",
        _builds(record),
        _failures(figures, record),
        markdown_table(["", ""], [[name, value] for name, value in _facts(figures).items()]),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _when(record: Mapping[str, Any]) -> str:
    ends = [entry["ended"] for entry in record["cells"]]
    return f"{record['environment']['date']} to {ends[-1]}" if ends else str(record["environment"]["date"])


def _grid(figures: Figures) -> str:
    columns = figures.settings.cells[: 1 + len(figures.settings.caching)]
    lines: list[list[str]] = []
    for row in figures.rows:
        cells = [replace(row, params=column.params) for column in columns]
        head = [f"{row.pixels}", f"{row.batch}"]
        lines += [[*head, _label(name), *(_result(figures, cell, name) for cell in cells)] for name in figures.names]
        allowed = [figures.allowed(cell) for cell in cells]
        if any(allowed):
            lines.append([*head, "*operations allow*", *map(_times, allowed)])
        published = [
            published_speedup(cell) if _is_published(figures) and not cell.is_plain else None for cell in cells
        ]
        if any(published):
            lines.append([*head, f"*published, {HARDWARE}*", *map(_times, published)])
    return markdown_table(["pixels", "batch", "", *(column.column for column in columns)], lines)


def _is_published(figures: Figures) -> bool:
    return (figures.settings.model, figures.settings.steps) == (MODEL, STEPS)


def _label(name: str) -> str:
    return f"{name} (plain: diffusers)" if name == NAMES[DEEPCACHE] else name


def _result(figures: Figures, cell: Cell, name: str) -> str:
    outcome = figures.outcome(cell, name)
    if outcome is None:
        return "" if cell not in figures.outcomes else "–"
    if outcome.error:
        return _verdict(outcome)
    speedup = figures.speedup(cell, name)
    decibels = figures.distances[cell].get(outcome.name, {}).get("psnr_db")
    told = [f"{figures.median(cell, name):.3g} s"]
    told += [] if cell.is_plain else [_times(speedup)]
    told += [f"{decibels:.1f} dB" if decibels is not None else ""]
    return ", ".join(filter(None, told))


def _verdict(outcome: Outcome) -> str:
    if outcome.error.startswith("not installed"):
        return "not installed"
    return "out of memory" if is_out_of_memory(outcome) else "failed"


def _ahead(figures: Figures) -> str:
    margins = figures.margins
    if not margins:
        return ""
    peers = list(dict.fromkeys(margin.peer for margin in margins))
    pairs = dict.fromkeys((margin.cell, margin.ours) for margin in margins)
    ratio = {(margin.cell, margin.ours, margin.peer): margin.ratio for margin in margins}

    def shown(cell: Cell, ours: str, peer: str) -> str:
        found = ratio.get((cell, ours, peer))
        return "–" if found is None else f"{found.median:.2f}× ({found.low:.2f} – {found.high:.2f})"

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
            seconds, found = spread(outcome.figures(SECONDS)), figures.distances[cell].get(name, {})
            parts = [figures.median(cell, name, f"{part}_seconds") for part in ("text", "loop", "decoder")]
            gain = None if cell.is_plain else figures.speedup(cell, name, LOOP)
            share = None if gain is None else figures.share(cell, name)
            lines.append(
                [
                    *(cell.title, name, _number(outcome.load_seconds), _number(outcome.first.get("capture_seconds"))),
                    *(_number(outcome.first_call_seconds), f"{seconds.median:.3g}"),
                    f"{seconds.low:.3g} – {seconds.high:.3g}",
                    *(map(_number, parts)),
                    *(_times(gain), "" if share is None else f"{100 * share:.0f} %"),
                    *(_number(found.get("error")), _number(found.get("psnr_db"))),
                    *(gib(outcome.peak_bytes), gib(outcome.first["gpu_bytes"]) if "gpu_bytes" in outcome.first else ""),
                ]
            )
    empty = [i for i in range(len(header)) if not any(line[i] for line in lines)]
    return markdown_table(_without(header, empty), [_without(line, empty) for line in lines])


def _builds(record: Mapping[str, Any]) -> str:
    lines = [
        [
            cell_from(build["row"]).row,
            build["backend"],
            _number(build["seconds"]),
            ", ".join(build["built"] or ()) or ("" if build["error"] else "the store had them all"),
        ]
        for build in record["builds"]
    ]
    table = markdown_table(["engines for", "backend", "s", "built"], lines)
    return (
        f"### Building\n\nExport, build and check, in a process of their own, before the cells.\n\n{table}"
        if lines
        else ""
    )


def _failures(figures: Figures, record: Mapping[str, Any]) -> str:
    failed = [
        f"- {cell.title}, {name}: {outcome.error}"
        for cell, outcomes in figures.outcomes.items()
        for name, outcome in outcomes.items()
        if outcome.error
    ]
    failed += [
        f"- {cell_from(each['row']).row}, {each['name']}: {each['error']}"
        for each in record["references"]
        if each["error"]
    ]
    failed += [
        f"- {cell_from(entry['cell']).title}: {', '.join(entry['alone'])} did not fit beside the others and ran alone"
        for entry in record["cells"]
        if entry["alone"]
    ]
    return "\n".join(["### What failed", "", *failed]) if failed else ""


def _facts(figures: Figures) -> dict[str, str]:
    others = {
        name: ", ".join(f"{package} {version}" for package, version in outcome.first["packages"].items())
        for outcomes in figures.outcomes.values()
        for name, outcome in outcomes.items()
        if not name.startswith(OURS) and "packages" in outcome.first
    }
    return {**figures.environment, **{f"packages of {name}": packages for name, packages in others.items()}}


def _without(line: Sequence[str], columns: Sequence[int]) -> list[str]:
    return [cell for i, cell in enumerate(line) if i not in columns]


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}×"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
