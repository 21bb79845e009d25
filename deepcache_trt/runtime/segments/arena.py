"""One allocation for what segments hand to each other: tensors that are never alive at once share its memory."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

# Bytes. What CUDA's own allocations begin at a multiple of, and enough for the vector instructions of a CPU.
ALIGNMENT = 256


@dataclass(frozen=True, kw_only=True)
class HandsOn:
    """An engine, by the names of the tensors that it reads and writes."""

    inputs: Sequence[str]
    outputs: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Arena:
    """Where each tensor begins, in bytes from the start of one allocation.

    Attributes:
        offsets: by the name of the tensor, multiples of `ALIGNMENT`.
        size: of the allocation.
        naive: what the same tensors take where each has memory of its own.
    """

    offsets: Mapping[str, int]
    size: int
    naive: int


def arena_of(pieces: Sequence[HandsOn], sizes: Mapping[str, int], *, held: Collection[str]) -> Arena:
    """Lay out what the pieces hand to each other.

    Variants that leave out some of the pieces can use it too: in them no tensor lives longer.

    Args:
        pieces: in the order in which every variant runs those that it has.
        sizes: bytes of each tensor that a piece writes.
        held: what has memory of its own, as it is needed between calls or by the caller: taps and outputs.
    """
    alive = lifetimes(pieces, held=held)
    rounded = {name: -(-sizes[name] // ALIGNMENT) * ALIGNMENT for name in alive}
    offsets = place(alive, rounded)
    return Arena(
        offsets=offsets,
        size=max((offset + rounded[name] for name, offset in offsets.items()), default=0),
        naive=sum(rounded.values()),
    )


def reused(run: Sequence[HandsOn], *, given: Collection[str]) -> set[str]:
    """What pieces that run in this order take of what calls before have computed: taps.

    Args:
        run: the pieces of one variant.
        given: what any piece of any variant writes.
    """
    computed: set[str] = set()
    taken: set[str] = set()
    for piece in run:
        taken |= {*piece.inputs} & {*given} - computed
        computed |= {*piece.outputs}
    return taken


def lifetimes(pieces: Sequence[HandsOn], *, held: Collection[str]) -> dict[str, tuple[int, int]]:
    """The index of the piece that writes each tensor and of the last one that reads it, which both need it.

    The model's inputs, which no piece writes, are not among them, nor is what is `held`.
    """
    alive: dict[str, tuple[int, int]] = {}
    for i, piece in enumerate(pieces):
        for name in piece.inputs:
            if name in alive:
                alive[name] = (alive[name][0], i)
        alive.update((name, (i, i)) for name in piece.outputs if name not in held)
    return alive


def place(alive: Mapping[str, tuple[int, int]], sizes: Mapping[str, int]) -> dict[str, int]:
    """Greedy by size (Pisarchyk and Lee 2020, arXiv:2001.03288): the largest first, into the smallest gap that fits.

    Those of one size come in the order of `alive`, so a chain of them takes the memory of two.

    Args:
        alive: the first and the last moment of each tensor, both included.
        sizes: of each, in any unit.

    Returns:
        Offsets in that unit, at which no two tensors overlap that are alive at once.
    """
    offsets: dict[str, int] = {}
    for name in sorted(alive, key=lambda name: -sizes[name]):
        first, last = alive[name]
        taken = sorted(
            (offset, offset + sizes[other])
            for other, offset in offsets.items()
            if alive[other][0] <= last and first <= alive[other][1]
        )
        end, gaps = 0, []
        for start, stop in taken:
            if start - end >= sizes[name]:
                gaps.append((start - end, end))
            end = max(end, stop)
        offsets[name] = min(gaps)[1] if gaps else end
    return offsets
