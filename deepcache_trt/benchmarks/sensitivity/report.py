"""What a study of layers leaves behind: the patterns of those in 8 bits, the figures as JSON, and a page."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deepcache_trt.benchmarks.report import markdown_table, write_json
from deepcache_trt.benchmarks.sensitivity.study import Study

# The file of the patterns, as `--quantize @FILE` reads it.
LAYERS = "layers.txt"


def table(found: Study) -> tuple[Sequence[str], list[Sequence[str]]]:
    """What was found beside the default and all layers, on seeds that nothing was chosen by."""
    header = ("in 8 bits", "layers", "of the operations", "lost, dB")
    lines: list[Sequence[str]] = [
        (name, f"{row.layers}", f"{row.share:.1%}", f"{row.loss:.2f}") for name, row in found.checked.items()
    ]
    return header, lines


def write(found: Study, out: Path, *, title: str, command: str, facts: Mapping[str, Any]) -> None:
    """Write all of it into a folder.

    Args:
        found: what.
        out: the folder, which is there.
        title: of the page.
        command: that found it.
        facts: what else the JSON is to have: the machine, the model.
    """
    (out / LAYERS).write_text("".join(f"{pattern}\n" for pattern in found.patterns), encoding="utf-8")
    ranked = [
        {"patterns": each.group.patterns, "layers": len(each.group.layers), "share": each.share, "error": each.error}
        for each in found.ranked
    ]
    figures = {"taken": found.taken, "caching": found.caching, "loss": found.loss}
    checked = {name: asdict(row) for name, row in found.checked.items()}
    write_json(out / "precision.json", {**facts, **figures, "checked": checked, "groups": ranked})
    (out / "precision.md").write_text(_page(found, title, command), encoding="utf-8")


def _page(found: Study, title: str, command: str) -> str:
    groups = [
        (f"`{each.group.name}`", f"{len(each.group.layers)}", f"{each.share:.2%}", f"{each.error:.2g}", taken)
        for taken, part in (("yes", found.ranked[: found.taken]), ("", found.ranked[found.taken :]))
        for each in part
    ]
    header = ("group", "layers", "of the operations", "error alone", "in 8 bits")
    return "\n\n".join(
        (
            f"# {title}",
            f"`{command}`",
            "What is lost on seeds that nothing was chosen by, of the PSNR of the latents against uncached ones:",
            markdown_table(*table(found)),
            f"Caching alone moves the latents by {found.caching:.2g} of their norm. Each group of layers alone moves "
            "them by this much from what they are cached and without 8 bits; those come first that move them least "
            "for the operations that they take, the calls of cached steps counted:",
            markdown_table(header, groups),
            "",
        )
    )
