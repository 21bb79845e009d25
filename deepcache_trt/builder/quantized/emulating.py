"""A model in PyTorch that computes as its quantized graph does: what that costs the pictures is seen before a build."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch

from deepcache_trt.builder.quantized.intercepting import Intercepted
from deepcache_trt.export.layers import Layer
from deepcache_trt.export.precision import Precision
from deepcache_trt.export.quantize import quantized_weight, stored_as


def emulated(
    state: Mapping[str, torch.Tensor], layers: Iterable[Layer], scales: Mapping[str, float], precision: Precision
) -> AbstractContextManager[Any]:
    """Within the block, layers multiply rounded activations with rounded weights, in this thread.

    Products of rounded values are those of what is stored to the rounding of their sums.

    Args:
        state: the model's state dict, the very tensors that it computes with.
        layers: that are quantized.
        scales: of each layer's activation, by the name of its weight.
        precision: of these layers.
    """
    rounded = {layer.weight: _rounded_weight(state[layer.weight], precision, layer.channels) for layer in layers}

    def run(name: str, layer: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name not in rounded:
            return layer(*args, **kwargs)
        activation, _, *others = args
        stored = stored_as(activation / scales[name], precision).to(activation.dtype)
        return layer(stored * scales[name], rounded[name], *others, **kwargs)

    return Intercepted(state, run)


def _rounded_weight(weight: torch.Tensor, precision: Precision, channels: int) -> torch.Tensor:
    stored, scale = quantized_weight(weight, precision, channels=channels)
    along = [1] * weight.ndim
    along[channels] = -1
    return (stored.float() * scale.float().reshape(along)).to(weight.dtype)
