"""A `forward` that is replaced on one module, for as long as it is installed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from deepcache_trt.foreign import Model


class PatchedForward:
    """Sends the calls of one module elsewhere; its own `forward`, or what someone else put there, is kept.

    Attributes:
        model: that holds the module, as long as it is installed.
        site: the module, as long as it is installed.
    """

    def __init__(self, forward: Callable[..., Any]) -> None:
        """Nothing is replaced yet; `forward` takes the arguments of the module's own."""
        self.model: Model | None = None
        self.site: Any = None
        self._forward = forward
        self._before: Any = None

    def install(self, model: Model, path: str) -> None:
        """Replace the `forward` of the model's sub-module at `path`; "" is the model itself."""
        self.remove()
        self.model, self.site = model, model.get_submodule(path)
        self._before = self.site.__dict__.get("forward")
        self.site.forward = self._forward

    def remove(self) -> None:
        """Give the module its own `forward` back."""
        if self.site is not None:
            self._restore()
        self.model = self.site = None

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """The module with its own `forward`, for the length of a block."""
        self._restore()
        try:
            yield
        finally:
            self.site.forward = self._forward

    def _restore(self) -> None:
        if self._before is None:
            self.site.__dict__.pop("forward", None)
        else:
            self.site.forward = self._before
