"""Taps: record or replace a module's output while the model's own `forward` runs.

Nothing of a model is rewritten. A tap is a module whose output tensor can be cached; a forward hook either keeps that
tensor (the tap is *emitted*) or puts a given tensor in its place (the tap is *consumed*).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True, kw_only=True)
class Tap:
    """A named place in a model.

    Attributes:
        name: of the tensor.
        path: of the sub-module whose output it is.
        is_merged: whether it is at once added to something, or multiplied with it. In half precision ONNX Runtime does
            so in float32 on a CPU, and what is merged is rounded before that only where it is an input.
    """

    name: str
    path: str
    is_merged: bool = False


def tap(
    model: Any, taps: Sequence[Tap], *, consumed: Mapping[str, "torch.Tensor"], emitted: dict[str, "torch.Tensor"]
) -> list["RemovableHandle"]:
    """From now on, `model(...)` uses the `consumed` tensors and fills `emitted` with every other tap."""

    def hook(tap: Tap) -> Callable[[Any, Any, Any], Any]:
        def on_forward(module: Any, args: Any, output: Any) -> Any:
            # Attention wrappers return a 1-tuple when asked for `return_dict=False`.
            tensor = output[0] if isinstance(output, tuple) else output
            if tap.name in consumed:
                supplied = consumed[tap.name]
                return (supplied, *output[1:]) if isinstance(output, tuple) else supplied
            emitted[tap.name] = tensor
            return None

        return on_forward

    return [model.get_submodule(tap.path).register_forward_hook(hook(tap)) for tap in taps]


@contextmanager
def tapped(
    model: Any,
    taps: Sequence[Tap],
    *,
    consumed: Mapping[str, "torch.Tensor"],
) -> Iterator[dict[str, "torch.Tensor"]]:
    """Within the block, `model(...)` uses the `consumed` tensors and fills the yielded dict with every other tap."""
    emitted: dict[str, torch.Tensor] = {}
    handles = tap(model, taps, consumed=consumed, emitted=emitted)
    try:
        yield emitted
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A graph cut from the full graph.

    Attributes:
        name: what plans call it.
        consumes: the taps that it takes as inputs.
        emits: the taps that it gives as outputs.
        outputs: which of the model's own outputs it gives; None: all.
    """

    name: str
    consumes: tuple[str, ...] = ()
    emits: tuple[str, ...] = ()
    outputs: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        assert not set(self.consumes) & set(self.emits), "a tap is supplied or computed, not both"
