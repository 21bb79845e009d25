"""The device that engines work on, made the current one."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@contextmanager
def on_device(device: "torch.device") -> Iterator[None]:
    """Make a GPU the current one, to which engines are bound, and leave whatever mode of torch the caller is in.

    A pipeline may be on another GPU than torch's first. What engines read and write outlives a caller's inference mode,
    in which it could never be written to again outside; it has no gradients, and the precision of autocast is none of
    an engine's.
    """
    import torch

    with ExitStack() as stack:
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        for kind in {"cpu", device.type}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield
