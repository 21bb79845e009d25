"""The numbers of a model's config, against the largest that a model has: a library believes whatever is written."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deepcache_trt.errors import CheckpointError

# Each some times what the largest published model has: channels, tokens, classes and words.
_MOST = 1 << 20
# Layers are made one by one, whatever memory their weights would take: thousands take minutes.
_MOST_LAYERS = 256
_LAYERS = re.compile("layers|depth|num_blocks")
_MOST_PIXELS = 1 << 13
_PIXELS = re.compile("(sample|image)_size|max_size")
# A table of positions has a row for each patch, and is computed before weights are read.
_MOST_PATCHES = 1 << 16

_CURE = "download or save it again"


def check_numbers(config: Mapping[str, Any], path: Path) -> None:
    """Refuse a config with a number that no model has.

    Raises:
        CheckpointError: it names the file, the field, the value and the limit.
    """
    nested = 1
    for name, value in _fields(config):
        each = [item for item in value if isinstance(item, int)] if isinstance(value, list) else [value]
        largest, layers = max(map(abs, each), default=0), bool(_LAYERS.search(name))
        most = _MOST_LAYERS if layers else _MOST_PIXELS if _PIXELS.search(name) else _MOST
        if largest > most:
            raise CheckpointError(f"{path}: {name} is {largest}, and no model has more than {most:,}; {_CURE}")
        nested *= max(largest, 1) if layers and name.endswith("per_block") else 1
        if "block" in name and isinstance(value, list) and len(value) > _MOST_LAYERS:
            raise CheckpointError(f"{path}: {name} has {len(value):,} entries, more than {_MOST_LAYERS}; {_CURE}")
    if nested > _MOST_LAYERS:
        raise CheckpointError(
            f"{path}: its blocks have {nested:,} layers each, and no model has more than {_MOST_LAYERS}; {_CURE}"
        )
    sides, patch = config.get("sample_size"), config.get("patch_size")
    pair = isinstance(sides, list) and len(sides) == 2 and all(isinstance(each, int) for each in sides)
    if not (sides is None or isinstance(sides, int) or pair):
        raise CheckpointError(f"{path}: sample_size is {sides!r}, neither a side nor a height and a width; {_CURE}")
    if isinstance(sides, int) and isinstance(patch, int) and patch > 0:
        patches = (sides // patch) ** 2
        if patches > _MOST_PATCHES:
            raise CheckpointError(
                f"{path}: sample_size {sides} is {patches:,} patches of {patch}, more than {_MOST_PATCHES:,}; {_CURE}"
            )


def _fields(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every whole number and every list of a config, by the name of its field, however deep."""
    waiting: list[tuple[str, Any]] = [*config.items()]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [(str(key), each) for key, each in value.items()]
        elif isinstance(value, list):
            yield name, value
            waiting += [(name, each) for each in value if isinstance(each, list | Mapping)]
        elif isinstance(value, int):
            yield name, value
