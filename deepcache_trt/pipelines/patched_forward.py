"""A `forward` that is replaced on one module, for whoever has installed something there, and for nobody else.

Pipelines in several threads, and one within another, share models. So what stands in the module only asks what the
running thread has installed: elsewhere the module's own `forward` runs, as if nothing had happened. It is there as long
as anyone has something installed.
"""

import copy
import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary

import torch

from deepcache_trt.foreign import Model

Forward = Callable[..., Any]

# By the ids of modules, what runs in the place of their own `forward`, None being that; in all threads but those that
# have one of their own. A context variable would not do: asyncio hands those of a task on to threads that it starts.
_everywhere: dict[int, Forward | None] = {}


class _ThisThread(threading.local):
    forwards: Mapping[int, Forward | None] = MappingProxyType({})


_here = _ThisThread()

_lock = threading.Lock()
_users: dict[int, int] = {}  # how many have something installed in a module, by its id


class PatchedForward:
    """Sends the calls of one module elsewhere.

    Attributes:
        model: that holds the module, as long as it is installed.
        site: the module, as long as it is installed.
    """

    def __init__(self, forward: Forward) -> None:
        """Nothing is replaced yet; `forward` takes the arguments of the module's own."""
        self.model: Model | None = None
        self.site: Any = None
        self._forward = forward
        self._remove: Callable[[], None] | None = None

    def install(self, model: Model, path: str, *, everywhere: bool = False) -> None:
        """Replace the `forward` of the model's sub-module at `path`, in this thread or everywhere; "" is the model."""
        self.remove()
        self.model, self.site = model, model.get_submodule(path)
        _enter(self.site)
        self._remove = (_set_everywhere if everywhere else _set_here)(id(self.site), self._forward)

    def remove(self) -> None:
        """Give the module its own `forward` back."""
        if self._remove is not None:
            self._remove()
            _leave(self.site)
        self.model = self.site = self._remove = None

    def lifted(self) -> AbstractContextManager[None]:
        """The module with its own `forward`, in this thread and for the length of a block."""
        return _instead(id(self.site), None)

    def preferred(self) -> AbstractContextManager[None]:
        """The module with this `forward`, whatever others have installed everywhere since."""
        return _instead(id(self.site), self._forward)


@contextmanager
def own_forwards() -> Iterator[None]:
    """Every module with its own `forward`, in this thread and for the length of a block."""
    with _lock:
        sites = [*_users]
    with ExitStack() as stack:
        for site in sites:
            stack.enter_context(_instead(site, None))
        yield


@contextmanager
def _instead(site: int, forward: Forward | None) -> Iterator[None]:
    undo = _set_here(site, forward)
    try:
        yield
    finally:
        undo()


def _set_here(site: int, forward: Forward | None) -> Callable[[], None]:
    before = _here.forwards
    _here.forwards = {**before, site: forward}

    def undo() -> None:
        others = {key: value for key, value in _here.forwards.items() if key != site}
        _here.forwards = others | ({site: before[site]} if site in before else {})

    return undo


def _set_everywhere(site: int, forward: Forward) -> Callable[[], None]:
    before = _everywhere.get(site)
    _everywhere[site] = forward
    return lambda: _everywhere.update({site: before})


def _in_place(site: int) -> Forward | None:
    here = _here.forwards
    return here[site] if site in here else _everywhere.get(site)


def _enter(site: Any) -> None:
    with _lock:
        _users[id(site)] = _users.get(id(site), 0) + 1
        if _users[id(site)] == 1:
            site.forward = _Standing(site)


def _leave(site: Any) -> None:
    with _lock:
        _users[id(site)] -= 1
        if not _users[id(site)]:
            del _users[id(site)]
            _everywhere.pop(id(site), None)
            own = site.forward.__wrapped__
            del site.forward
            if site.forward != own:  # someone had put it there
                site.forward = own


class _Standing:
    """Stands for the `forward` of a module; copies and pickles of the module are given its own one."""

    def __init__(self, site: Any) -> None:
        self.__wrapped__: Forward = site.forward
        functools.update_wrapper(self, site.forward)
        self.__module__ = __name__
        self._site = id(site)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():  # a model or a method that is compiled goes on calling it uncompiled
            return torch.compiler.disable(self._run)(*args, **kwargs)
        return self._run(*args, **kwargs)

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        return (_in_place(self._site) or self.__wrapped__)(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Forward:
        own: Forward = copy.deepcopy(self.__wrapped__, memo)
        return own

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__wrapped__.__reduce_ex__(protocol)


# Held by the thread that draws with a model.
_alone: "WeakKeyDictionary[Any, threading.RLock]" = WeakKeyDictionary()


@contextmanager
def alone_with(components: Iterable[Any]) -> Iterator[None]:
    """Wait until no other thread draws with any of these models, and keep them to this one until the end of the block.

    Engines have one set of buffers, which hold what a cached step reads; one image within another, in the same thread,
    goes on.
    """
    models = sorted((each for each in components if isinstance(each, torch.nn.Module)), key=id)
    with _lock:
        locks = [_alone.setdefault(model, threading.RLock()) for model in models]
    with ExitStack() as stack:
        for lock in locks:
            stack.enter_context(lock)
        yield
