"""What every report of a benchmark is written with: JSON that is whole or not there, Markdown tables, no paths."""

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

# Absolute paths, but neither what follows a scheme, nor a division, nor what was cut down before.
_PATH = re.compile(r"(?<![\w./:…])(?:/[^\s/:;,'\"()]+)+/?")


def without_paths(text: str) -> str:
    """`text` with every absolute path cut down to its last part: reports are published."""
    return _PATH.sub(lambda path: f"…/{path[0].rstrip('/').rsplit('/', 1)[-1]}", text)


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
