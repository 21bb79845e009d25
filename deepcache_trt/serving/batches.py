"""Requests in batches: pictures of one kind that wait at the same time are drawn together."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from deepcache_trt.errors import DeepCacheError


class HasKind(Protocol):
    """What can wait."""

    @property
    def kind(self) -> Hashable:
        """The same for what can be drawn together."""
        ...


# Seconds that an idle queue waits for more of a kind: pictures of one request do not come at the same moment.
_GATHERING = 0.01

Item = TypeVar("Item", bound=HasKind)
Progress = Callable[[int, int], None]
Paint = Callable[[Sequence[Item], Progress, Callable[[], bool]], Sequence[Any]]


@dataclass(frozen=True, kw_only=True)
class Step:
    """So many of a picture's steps are done."""

    done: int
    total: int


class FullError(DeepCacheError):
    """As many wait as may."""


@dataclass(eq=False)
class _Place(Generic[Item]):
    """Of one item in the queue."""

    item: Item
    told: Progress
    done: "asyncio.Future[Any]"
    since: float = field(default_factory=time.monotonic)


class Batches(Generic[Item]):
    """A queue in front of one who draws, who takes the oldest item and all of its kind that wait, up to a number."""

    def __init__(self, paint: Paint[Item], *, most: int, waiting: int) -> None:
        """Take over what draws; it is called in a thread of its own, one call after the other.

        Args:
            paint: draws some items of one kind; it is given a function to tell steps done of all, and one that says
                whether nobody waits for any of them any more, and returns a picture for each.
            most: items of a batch.
            waiting: items that wait, at most.
        """
        self._paint, self._most, self._waiting = paint, most, waiting
        self._places: list[_Place[Item]] = []
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="paint")
        self._running: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """How many wait."""
        return len(self._places)

    async def draw(self, item: Item, told: Progress = lambda done, total: None) -> Any:
        """One picture, as soon as it is its turn; a caller that is cancelled gives its place back.

        Raises:
            FullError: too many wait.
            DeepCacheError: what draws refuses it.
        """
        if len(self._places) >= self._waiting:
            raise FullError(f"{self._waiting} pictures are waiting already; try again later")
        place = _Place(item=item, told=told, done=asyncio.get_running_loop().create_future())
        self._places.append(place)
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        try:
            return await place.done
        finally:
            if place in self._places:
                self._places.remove(place)

    async def follow(self, item: Item) -> AsyncIterator[Any]:
        """A `Step` as often as one is done, and then the picture; raises as `draw`."""
        told = asyncio.Queue[Step | None]()
        drawing = asyncio.create_task(
            self.draw(item, lambda done, total: told.put_nowait(Step(done=done, total=total)))
        )
        drawing.add_done_callback(lambda task: told.put_nowait(None))
        try:
            while (step := await told.get()) is not None:
                yield step
            yield await drawing
        finally:
            drawing.cancel()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await asyncio.sleep(_GATHERING)
            while self._places:
                kind = self._places[0].item.kind
                batch = list(itertools.islice((each for each in self._places if each.item.kind == kind), self._most))
                self._places = [each for each in self._places if each not in batch]

                def tell(done: int, total: int, batch: list[_Place[Item]] = batch) -> None:
                    for each in batch:
                        loop.call_soon_threadsafe(each.told, done, total)

                def is_deserted(batch: list[_Place[Item]] = batch) -> bool:
                    return all(each.done.cancelled() for each in batch)

                items = [each.item for each in batch]
                try:
                    found = await loop.run_in_executor(self._thread, self._paint, items, tell, is_deserted)
                except Exception as error:
                    for each in batch:
                        if not each.done.done():
                            each.done.set_exception(error)
                else:
                    for each, picture in zip(batch, found, strict=True):
                        if not each.done.done():
                            each.done.set_result(picture)
        finally:
            self._running = None

    def close(self) -> None:
        """Draw nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)
