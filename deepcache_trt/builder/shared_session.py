"""Open engines: pipelines with the same model share them, and those for other shapes stay open while there is room.

Compiled engines serve the shapes that they are compiled for. So that sizes, batches, guidance, ControlNets and adapters
may take turns, a pipeline keeps what it has open for each of them. All that is open and not in use takes no more than
`$DEEPCACHE_TRT_OPEN_GB` of memory, by default half of what is free; what was used longest ago is closed first.
"""

import hashlib
import itertools
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from deepcache_trt.builder.component import Component
from deepcache_trt.engines.upkeep import bytes_in_setting
from deepcache_trt.runtime.session import Session

if TYPE_CHECKING:
    import torch

_SETTING = "DEEPCACHE_TRT_OPEN_GB"

# Sessions that are open and not in use; beside memory each takes threads and handles.
_IDLE_KEPT = 16

_clock = itertools.count()


class SharedSession:
    """A session that all pipelines with its model hold; its engines are closed when the last one lets go of it.

    Attributes:
        session: the open session.
        drop: drops the torch weights that its engines hold too; None where they stay.
        made_of: the component that it was opened for.
        held_bytes: what its engines hold of weights, on the pipeline's device.
        key: of the state of a model that it was opened for.
        used: when a pipeline last took it, as a count.
    """

    def __init__(
        self, session: Session, drop: Callable[[], None] | None, made_of: Component, *, held_bytes: int = 0
    ) -> None:
        self.session = session
        self.drop = drop
        self.made_of = made_of
        self.held_bytes = held_bytes
        self.key = ""
        self.used = 0
        # Engines save what they learnt when they are closed, and a pipeline may merely be forgotten.
        weakref.finalize(self, session.close)


_holders: "weakref.WeakSet[OpenEngines]" = weakref.WeakSet()
_registry = threading.RLock()  # held while who holds what is read or changed, not while anything is opened


def open_sessions() -> "set[SharedSession]":
    """What is open in this process."""
    with _registry:
        return {shared for holder in _holders for shared in holder.kept}


def make_room(needed: int, device: "torch.device") -> None:
    """Close sessions that nobody uses, the one that was used longest ago first, until so many bytes fit beside them.

    Raises:
        StoreError: the setting is no number.
    """
    with _registry:
        in_use = {holder.opened for holder in _holders}
        idle = sorted(open_sessions() - in_use, key=lambda shared: shared.used)
        held = sum(shared.held_bytes for shared in idle)
        room = _room(device, held)
        while idle and (held + needed > room or len(idle) >= _IDLE_KEPT):
            oldest = idle.pop(0)
            held -= oldest.held_bytes
            for holder in _holders:
                holder.kept.discard(oldest)


def _room(device: "torch.device", held: int) -> int:
    """How many bytes sessions that are not in use may take; `held` is what they take now."""
    said = bytes_in_setting(_SETTING, example=8)
    if said is not None:
        return said
    if device.type == "cuda":
        import torch

        return (torch.cuda.mem_get_info(device)[0] + held) // 2
    import psutil

    return int(psutil.virtual_memory().available + held) // 2


# A session and how many runs it has seen; None where none was open.
Mark = tuple[Session, int] | None


class OpenEngines:
    """What one pipeline holds of one model: the session for its last state and shape, and those before that are open.

    Attributes:
        opened: the session in use, or none.
        state: of the model, that it was opened for.
        opened_count: how many sessions were opened for this holder.
        kept: what is open, the one in use among it.
    """

    def __init__(self) -> None:
        self.opened: SharedSession | None = None
        self.state: tuple[object, ...] | None = None
        self.opened_count = 0
        self.kept: set[SharedSession] = set()
        self._origin: weakref.ref[OpenEngines] | None = None
        self._other_seconds = 0.0  # what other sessions took, less what others spent in the one in use
        self._count_before = 0  # runs of the session in use before this holder took it
        with _registry:
            _holders.add(self)

    @property
    def session(self) -> Session | None:
        """What is in use; other pipelines with the same model may hold it too."""
        return None if self.opened is None else self.opened.session

    @property
    def seconds(self) -> float:
        """Spent in engines by this holder, those that are closed by now included."""
        return self._other_seconds + (0.0 if self.opened is None else self.opened.session.log.seconds)

    def keep_in(self, origin: "OpenEngines") -> None:
        """Let what is opened here stay open in `origin` too."""
        self._origin = weakref.ref(origin)

    def take(
        self,
        state: tuple[object, ...],
        sizes: Mapping[str, int],
        open_new: Callable[[], SharedSession],
    ) -> SharedSession:
        """The session for a state of a model and calls of these sizes: one that is open somewhere, or a new one.

        Args:
            state: everything but sizes that decides what the engines are.
            sizes: of each dynamic axis.
            open_new: opens one; the one in use until now may be closed for it.
        """
        if self.opened is not None and state == self.state and self.opened.session.serves(sizes):
            return self.opened
        key = hashlib.blake2b(repr(state).encode()).hexdigest()
        self._lay_aside()
        found = self._find(key, sizes)
        if found is None:
            found = open_new()
            found.key = key
            self.opened_count += 1
        self._use(found, state)
        return found

    def _find(self, key: str, sizes: Mapping[str, int]) -> SharedSession | None:
        """Of several, the one that was used last; what this holder has itself comes first."""
        with _registry:
            for among in (self.kept, open_sessions()):
                found = [shared for shared in among if shared.key == key and shared.session.serves(sizes)]
                if found:
                    return max(found, key=lambda shared: shared.used)
        return None

    def _use(self, opened: SharedSession, state: tuple[object, ...]) -> None:
        self.opened, self.state = opened, state
        opened.used = next(_clock)
        self._other_seconds -= opened.session.log.seconds
        self._count_before = opened.session.log.count
        origin = None if self._origin is None else self._origin()
        with _registry:
            self.kept.add(opened)
            if origin is not None:
                origin.kept.add(opened)

    def _lay_aside(self) -> None:
        """What is in use no longer is, and stays open."""
        if self.opened is not None:
            self._other_seconds += self.opened.session.log.seconds
        self.opened = self.state = None

    def mark(self) -> Mark:
        """Now, for `runs_since`."""
        return None if self.opened is None else (self.opened.session, self.opened.session.log.count)

    def runs_since(self, mark: Mark) -> dict[str, tuple[float, ...]]:
        """The seconds of each run of the session that is open now, since `mark`, by variant."""
        if self.opened is None:
            return {}
        session = self.opened.session
        return session.log.since(mark[1] if mark is not None and mark[0] is session else self._count_before)

    def close(self) -> None:
        """Let go of every session."""
        self._lay_aside()
        with _registry:
            self.kept.clear()
