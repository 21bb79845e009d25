"""What every report of a benchmark is written with: JSON that is whole or not there, Markdown tables."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def write_json(path: Path, data: Any) -> None:
    """Replace the file in one step, so that whoever reads it meanwhile finds it whole."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; nothing where it would be empty."""
    if not lines:
        return ""

    def line(cells: Iterable[Any]) -> str:
        return f"| {' | '.join(str(cell).replace('|', '¦') for cell in cells)} |"

    return "\n".join([line(header), f"|{'---|' * len(header)}", *map(line, lines)])


def gib(count: int | None) -> str:
    """Bytes in GiB; "?" where they are not known."""
    return "?" if count is None else f"{count / 2**30:.2f}"
