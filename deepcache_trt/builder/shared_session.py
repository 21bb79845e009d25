"""Open engines: pipelines with the same model share them, and each lets go of its own when it needs others."""

import hashlib
import weakref
from collections.abc import Callable, Mapping

from deepcache_trt.builder.component import Component
from deepcache_trt.runtime.session import Session


class SharedSession:
    """A session that all pipelines with its model hold; its engines are closed when the last one lets go of it.

    Attributes:
        session: the open session.
        drop: drops the torch weights that its engines hold too; None where they stay.
        made_of: the component that it was opened for.
    """

    def __init__(self, session: Session, drop: Callable[[], None] | None, made_of: Component) -> None:
        self.session = session
        self.drop = drop
        self.made_of = made_of
        # Engines save what they learnt when they are closed, and a pipeline may merely be forgotten.
        weakref.finalize(self, session.close)


# By what they are open for.
_shared: "weakref.WeakValueDictionary[str, SharedSession]" = weakref.WeakValueDictionary()


def shared_session(
    state: tuple[object, ...], sizes: Mapping[str, int], open_new: Callable[[], SharedSession]
) -> SharedSession:
    """The session that is open for a state of a model and takes calls of these sizes, else a new one.

    Args:
        state: everything but sizes that decides what the engines are.
        sizes: of each dynamic axis.
        open_new: opens one.
    """
    key = hashlib.blake2b(repr(state).encode()).hexdigest()
    found = _shared.get(key)
    if found is None or not found.session.serves(sizes):
        found = open_new()
        _shared[key] = found
    return found


# A session and how many runs it has seen; None where none was open.
Mark = tuple[Session, int] | None


class OpenEngines:
    """What one pipeline holds of one model: the session for its last state, or none.

    Attributes:
        opened: the session and what it was opened for.
        state: of the model, that it was opened for.
    """

    def __init__(self) -> None:
        self.opened: SharedSession | None = None
        self.state: tuple[object, ...] | None = None
        self._origin: weakref.ref[OpenEngines] | None = None
        self._other_seconds = 0.0  # what closed engines took, less what others spent in the open ones
        self._count_before = 0  # runs of the open session before this holder took it

    @property
    def session(self) -> Session | None:
        """What is open now; other pipelines with the same model may hold it too."""
        return None if self.opened is None else self.opened.session

    @property
    def seconds(self) -> float:
        """Spent in engines by this holder, those that are closed by now included."""
        return self._other_seconds + (0.0 if self.opened is None else self.opened.session.log.seconds)

    def keep_in(self, origin: "OpenEngines") -> None:
        """Let what is opened here stay open in `origin` too, while nothing else is open there."""
        self._origin = weakref.ref(origin)

    def take(
        self, state: tuple[object, ...], sizes: Mapping[str, int], open_new: Callable[[], SharedSession]
    ) -> SharedSession:
        """The open session if it is for this state and these sizes; else another one, see `shared_session`."""
        if self.opened is None or state != self.state or not self.opened.session.serves(sizes):
            self.close()
            self._hold(shared_session(state, sizes, open_new), state)
        assert self.opened is not None
        return self.opened

    def _hold(self, opened: SharedSession, state: tuple[object, ...]) -> None:
        self.opened, self.state = opened, state
        self._other_seconds -= opened.session.log.seconds
        self._count_before = opened.session.log.count
        origin = None if self._origin is None else self._origin()
        if origin is not None and origin.opened is None:
            origin._hold(opened, state)

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
        """Let go of the session."""
        if self.opened is not None:
            self._other_seconds += self.opened.session.log.seconds
        self.opened = self.state = None
