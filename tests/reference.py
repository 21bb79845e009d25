"""Caching in plain PyTorch, with two hooks on the real model: what engines draw is compared with it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from deepcache_trt.models.families.unet import unet_taps


@contextmanager
def cached_by_hooks(unet: Any, is_full: Callable[[int], bool], *, branch: int = 0) -> Iterator[None]:
    """For one generation: every call computes all of `unet`, but those that are not full replace the tap's output.

    Args:
        unet: of a plain pipeline.
        is_full: of the position of a call, from 0 on.
        branch: DeepCache's k.
    """
    call, kept = -1, None

    def begin(module: Any, args: Any) -> None:
        nonlocal call
        call += 1

    def keep_or_replace(module: Any, args: Any, output: Any) -> Any:
        nonlocal kept
        if is_full(call):
            kept = output
        return kept

    tap = unet.get_submodule(unet_taps(unet)[branch].path)
    handles = [unet.register_forward_pre_hook(begin), tap.register_forward_hook(keep_or_replace)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
