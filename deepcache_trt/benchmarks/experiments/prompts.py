"""Prompts from files: one a line, PartiPrompts' TSV, COCO's captions as JSON."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepcache_trt.documents import parsed, read_text
from deepcache_trt.errors import DeepCacheError, reason_of

# The names of the column or key that holds a prompt, in PartiPrompts and in COCO.
_NAMES = ("Prompt", "prompt", "caption")

# COCO's captions of its training images take 66 MB.
_MOST_BYTES = 256 << 20


def read_prompts(path: Path) -> tuple[str, ...]:
    """The prompts of a file, in its order; those of COCO by the number of the caption.

    Args:
        path: of a .tsv with a column "Prompt", of a .json with "annotations" that have a "caption", or a list of texts
            or of objects with a "prompt"; whatever else it is called has one a line.

    Raises:
        DeepCacheError: it cannot be read, or has none; the message says what it should have.
    """
    try:
        text = read_text(path, most=_MOST_BYTES)
    except (OSError, ValueError) as error:
        reason = reason_of(error)
        raise DeepCacheError(f"cannot read {path}: {reason}; give a file of prompts in UTF-8, one a line") from error
    read = {".tsv": _of_table, ".json": _of_json}.get(path.suffix.lower(), _of_lines)
    prompts = tuple(prompt.strip() for prompt in read(text, path) if prompt.strip())
    if not prompts:
        raise DeepCacheError(f"{path} has no prompts; write one a line")
    return prompts


def _of_lines(text: str, path: Path) -> Sequence[str]:
    return text.splitlines()


def _of_table(text: str, path: Path) -> Sequence[str]:
    try:
        rows = list(csv.DictReader(text.splitlines(), delimiter="\t"))
    except csv.Error as error:
        raise DeepCacheError(f"{path} is no table: {error}; write a prompt a line into a .txt") from error
    name = next((name for name in _NAMES if rows and name in rows[0]), None)
    if rows and name is None:
        columns = ", ".join(str(column) for column in rows[0])
        raise DeepCacheError(f"{path} has no column {_NAMES[0]!r}, but {columns}; rename the one of the prompts")
    return [row[name] or "" for row in rows if name]


def _of_json(text: str, path: Path) -> Sequence[str]:
    try:
        found: Any = parsed(text)
    except ValueError as error:
        raise DeepCacheError(f"{path} is no JSON: {error}; mend it, or write a prompt a line into a .txt") from error
    if isinstance(found, dict):
        found = found.get("annotations")
    if isinstance(found, list) and all(isinstance(each, dict) and "id" in each for each in found):
        found = sorted(found, key=lambda each: str(each["id"]).zfill(20))
    prompts = [_prompt(each) for each in found] if isinstance(found, list) else [None]
    if None in prompts:
        raise DeepCacheError(
            f"{path} is neither a list of texts or of objects with a prompt, nor COCO's annotations with captions"
        )
    return [str(prompt) for prompt in prompts]


def _prompt(entry: Any) -> str | None:
    if isinstance(entry, dict):
        entry = next((entry[name] for name in _NAMES if name in entry), None)
    return entry if isinstance(entry, str) else None
