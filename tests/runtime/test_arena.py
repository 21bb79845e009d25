"""Tensors that are alive at once never share memory; others do."""

import random

import pytest

from deepcache_trt.runtime.segments.arena import ALIGNMENT, Arena, HandsOn, arena_of, lifetimes, place


def piece(inputs: tuple[str, ...], outputs: tuple[str, ...]) -> HandsOn:
    return HandsOn(inputs=inputs, outputs=outputs)


def _random_pieces(dice: random.Random) -> list[HandsOn]:
    """Each reads some of what those before it have written, or the model's input."""
    pieces: list[HandsOn] = []
    written = ["x"]
    for i in range(dice.randint(1, 30)):
        read = dice.sample(written[-8:], k=min(len(written[-8:]), dice.randint(1, 4)))
        pieces.append(piece(tuple(read), tuple(f"{i}.{k}" for k in range(dice.randint(1, 4)))))
        written.extend(pieces[-1].outputs)
    return pieces


@pytest.mark.parametrize("seed", range(64))
def test_no_piece_overwrites_what_another_will_read_whichever_are_left_out(seed: int) -> None:
    dice = random.Random(seed)
    pieces = _random_pieces(dice)
    names = [name for piece in pieces for name in piece.outputs]
    sizes = {name: dice.choice((1, 256, 1000, 4096, dice.randint(1, 10_000))) for name in names}
    held = set(dice.sample(names, k=len(names) // 4))
    arena = arena_of(pieces, sizes, held=held)
    assert arena.offsets.keys() == set(names) - held
    for _ in range(8):
        memory: dict[int, str] = {}
        available = held | {"x"}
        for piece in pieces:
            if not available.issuperset(piece.inputs) or dice.random() < 0.1:
                continue
            for name in piece.outputs:
                if name not in held:
                    memory.update(dict.fromkeys(_blocks(arena, name, sizes), name))
            for name in {*piece.inputs, *piece.outputs} - held - {"x"}:
                assert {memory[block] for block in _blocks(arena, name, sizes)} == {name}
            available |= set(piece.outputs)


def _blocks(arena: Arena, name: str, sizes: dict[str, int]) -> range:
    """The blocks of `ALIGNMENT` bytes that a tensor lies in."""
    offset = arena.offsets[name]
    assert offset % ALIGNMENT == 0
    assert offset + sizes[name] <= arena.size
    return range(offset // ALIGNMENT, -(-(offset + sizes[name]) // ALIGNMENT))


@pytest.mark.parametrize("seed", range(64))
def test_it_takes_no_more_than_each_on_its_own_and_no_less_than_what_is_alive_at_once(seed: int) -> None:
    dice = random.Random(seed)
    pieces = _random_pieces(dice)
    sizes = {name: ALIGNMENT * dice.randint(1, 40) for piece in pieces for name in piece.outputs}
    arena = arena_of(pieces, sizes, held=())
    assert arena.naive == sum(sizes.values())
    alive = lifetimes(pieces, held=()).items()
    at_once = [sum(sizes[n] for n, (first, last) in alive if first <= i <= last) for i in range(len(pieces))]
    assert max(at_once) <= arena.size <= arena.naive
    assert arena.size <= 1.25 * max(at_once)  # seen: 1.2


def test_a_chain_takes_the_memory_of_two() -> None:
    chain = [piece((str(i),), (str(i + 1),)) for i in range(20)]
    arena = arena_of(chain, dict.fromkeys(map(str, range(21)), 1000), held={"20"})
    assert (arena.size, arena.naive) == (2 * 1024, 19 * 1024)


def test_a_tensor_lives_from_the_piece_that_writes_it_to_the_last_that_reads_it() -> None:
    pieces = [piece(("x",), ("a", "tap")), piece(("a", "tap"), ("b", "unread")), piece(("a", "b"), ("y",))]
    assert lifetimes(pieces, held={"tap", "y"}) == {"a": (0, 2), "b": (1, 2), "unread": (1, 1)}


def test_each_takes_the_smallest_gap_that_it_fits_into() -> None:
    """When "late" is written, 8…13 and 17…20 are free again."""
    alive = {"a": (0, 1), "b": (0, 0), "c": (0, 1), "d": (0, 0), "e": (0, 1), "late": (1, 1)}
    sizes = {"a": 8, "b": 5, "c": 4, "d": 3, "e": 2, "late": 1}
    assert place(alive, sizes) == {"a": 0, "b": 8, "c": 13, "d": 17, "e": 20, "late": 17}


def test_nothing_takes_nothing() -> None:
    assert arena_of([piece(("x",), ("y",))], {"y": 4}, held={"y"}) == Arena(offsets={}, size=0, naive=0)
