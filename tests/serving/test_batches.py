"""The queue in front of what draws: who is drawn with whom, who waits, and who gives a place back."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcache_trt.errors import DeepCacheError
from deepcache_trt.serving.batches import Batches, FullError


@dataclass(frozen=True)
class Item:
    kind: str
    number: int = 0


class Slow:
    """Draws by giving the item back, and holds until it is let go."""

    def __init__(self, *, held: bool = False) -> None:
        self.batches: list[list[Item]] = []
        self.deserted: list[bool] = []
        self.go, self.begun = threading.Event(), threading.Event()
        if not held:
            self.go.set()

    def __call__(self, items: Sequence[Item], tell: Callable[[int, int], None], deserted: Callable[[], bool]) -> Any:
        self.batches.append(list(items))
        self.begun.set()
        tell(1, 2)
        assert self.go.wait(10)
        self.deserted.append(deserted())
        tell(2, 2)
        return [item.number for item in items]


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 20))


@settings(max_examples=30, deadline=None)
@given(kinds=st.lists(st.sampled_from("abc"), min_size=1, max_size=12), most=st.integers(1, 5))
def test_every_item_is_drawn_once_with_its_kind_alone(kinds: list[str], most: int) -> None:
    slow = Slow()
    items = [Item(kind, number) for number, kind in enumerate(kinds)]

    async def work() -> list[int]:
        batches: Batches[Item] = Batches(slow, most=most, waiting=100)
        return list(await asyncio.gather(*map(batches.draw, items)))

    assert run(work()) == [item.number for item in items]
    assert sorted(item.number for batch in slow.batches for item in batch) == list(range(len(items)))
    for batch in slow.batches:
        assert len({item.kind for item in batch}) == 1
        assert len(batch) <= most


def test_what_waits_while_another_batch_is_drawn_is_drawn_together_oldest_first() -> None:
    slow = Slow(held=True)

    async def work() -> None:
        batches: Batches[Item] = Batches(slow, most=8, waiting=100)
        first = asyncio.create_task(batches.draw(Item("a")))
        await asyncio.to_thread(slow.begun.wait, 10)
        others = [asyncio.create_task(batches.draw(Item(kind, number))) for number, kind in enumerate("bcbcb")]
        await asyncio.sleep(0)
        assert len(batches) == 5
        slow.go.set()
        await asyncio.gather(first, *others)

    run(work())
    assert [[item.kind for item in batch] for batch in slow.batches] == [["a"], ["b", "b", "b"], ["c", "c"]]


def test_whoever_comes_when_the_queue_is_full_is_turned_away_and_the_others_are_not() -> None:
    slow = Slow(held=True)

    async def work() -> None:
        batches: Batches[Item] = Batches(slow, most=1, waiting=2)
        first = asyncio.create_task(batches.draw(Item("a")))
        await asyncio.to_thread(slow.begun.wait, 10)
        waiting = [asyncio.create_task(batches.draw(Item("a", number))) for number in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(FullError, match="2 pictures are waiting already; try again later"):
            await batches.draw(Item("a", 3))
        slow.go.set()
        assert await asyncio.gather(first, *waiting) == [0, 1, 2]

    run(work())


def test_whoever_goes_away_gives_the_place_back_and_a_batch_of_nobody_is_stopped() -> None:
    slow = Slow(held=True)

    async def work() -> None:
        batches: Batches[Item] = Batches(slow, most=1, waiting=1)
        drawn = asyncio.create_task(batches.draw(Item("a", 0)))
        await asyncio.to_thread(slow.begun.wait, 10)
        waiting = asyncio.create_task(batches.draw(Item("a", 1)))
        await asyncio.sleep(0)
        for task in (waiting, drawn):
            task.cancel()
        await asyncio.gather(drawn, waiting, return_exceptions=True)
        assert len(batches) == 0
        last = asyncio.create_task(batches.draw(Item("a", 2)))
        slow.go.set()
        assert await last == 2

    run(work())
    assert [item.number for batch in slow.batches for item in batch] == [0, 2]
    assert slow.deserted == [True, False]


def test_an_error_is_told_to_those_of_its_batch_and_the_queue_goes_on() -> None:
    def paint(items: Sequence[Item], tell: Any, deserted: Any) -> list[int]:
        if items[0].kind == "bad":
            raise DeepCacheError("no such size")
        return [item.number for item in items]

    async def work() -> None:
        batches: Batches[Item] = Batches(paint, most=4, waiting=10)
        found = await asyncio.gather(
            *(batches.draw(Item(kind, number)) for number, kind in enumerate(("bad", "good", "bad"))),
            return_exceptions=True,
        )
        assert [type(each) for each in found] == [DeepCacheError, int, DeepCacheError]

    run(work())


def test_steps_are_told_to_all_of_a_batch() -> None:
    told: list[tuple[int, int, int]] = []

    async def work() -> None:
        batches: Batches[Item] = Batches(Slow(), most=4, waiting=10)
        await asyncio.gather(
            *(batches.draw(Item("a", i), lambda done, total, i=i: told.append((i, done, total))) for i in range(2))  # type: ignore[misc]
        )

    started = time.monotonic()
    run(work())
    assert time.monotonic() - started < 5
    assert sorted(told) == [(0, 1, 2), (0, 2, 2), (1, 1, 2), (1, 2, 2)]
