"""Activations as a model runs in PyTorch: what each layer multiplies with its weight."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from deepcache_trt.builder.quantized.intercepting import Intercepted
from deepcache_trt.export.precision import Precision
from deepcache_trt.export.ranges import Magnitudes


@contextmanager
def observed(state: Mapping[str, torch.Tensor]) -> Iterator[dict[str, Magnitudes]]:
    """Within the block, whatever a model computes in this thread is looked at.

    Args:
        state: the model's state dict, the very tensors that it computes with.

    Yields:
        What the layers have been given, by the names of their weights; it is filled as they run.
    """
    seen: dict[str, Magnitudes] = {}

    def look(name: str, layer: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        seen.setdefault(name, Magnitudes()).add(args[0])
        return layer(*args, **kwargs)

    with Intercepted(state, look):
        yield seen


def scales(seen: Mapping[str, Magnitudes], precision: Precision) -> dict[str, float]:
    """The scale of each layer's activation, by the name of its weight."""
    return {name: seen[name].scale(precision) for name in sorted(seen)}
