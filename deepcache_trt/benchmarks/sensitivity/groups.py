"""Layers that are quantized together: those of one kind in one block of a model."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from deepcache_trt.export.layers import Layer


@dataclass(frozen=True, kw_only=True)
class Group:
    """Layers that are quantized together.

    Attributes:
        patterns: of their names, as `--quantize` takes them; no other layer matches.
        layers: in the order in which they run.
    """

    patterns: tuple[str, ...]
    layers: tuple[Layer, ...]

    @property
    def name(self) -> str:
        """As in tables: the first pattern, and the ends of the others."""
        first, *others = self.patterns
        return " + ".join([first, *(pattern.rpartition(".")[2] for pattern in others)])


def groups_of(layers: Sequence[Layer]) -> list[Group]:
    """Groups of layers, each in one; those that read the same activations, as queries and keys do, are in the same one.

    Args:
        layers: all of a model that are considered.
    """
    by_pattern: dict[str, list[Layer]] = {}
    for layer in layers:
        by_pattern.setdefault(_pattern(layer.name), []).append(layer)
    together: dict[frozenset[str], list[str]] = {}
    for pattern, found in by_pattern.items():
        together.setdefault(frozenset(layer.activation for layer in found), []).append(pattern)
    names = [layer.name for layer in layers]
    return [
        Group(
            patterns=tuple(name for pattern in patterns for name in _exact(pattern, by_pattern[pattern], names)),
            layers=tuple(layer for pattern in patterns for layer in by_pattern[pattern]),
        )
        for patterns in together.values()
    ]


def _pattern(name: str) -> str:
    """The name with a star for each number but that of the block and one at the end, which tells layers apart."""
    first, *others = name.split(".")
    block, rest = ([first, others[0]], others[1:]) if others and others[0].isdigit() else ([first], others)
    starred = ["*" if part.isdigit() and place < len(rest) - 1 else part for place, part in enumerate(rest)]
    return ".".join([*block, *starred])


def _exact(pattern: str, layers: Iterable[Layer], names: Iterable[str]) -> list[str]:
    """The pattern, or the names of its layers where others match it as well: a star stands for dots too."""
    own = [layer.name for layer in layers]
    return [pattern] if [name for name in names if fnmatchcase(name, pattern)] == own else own
