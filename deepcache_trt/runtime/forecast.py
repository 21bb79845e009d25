"""Forecasts: a cached tensor moved along the line through its last two true values.

The first-order Taylor expansion of TaylorSeer (Liu et al. 2025, equation 4), for whatever a step reuses.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


# Elements; from 32,768 on torch takes several threads.
_PIECE = 16_384


def rate(call: int, before: int | None) -> float:
    """1 / (calls since a value was last computed), which makes of its change a slope; 0 for the first time.

    Args:
        call: that computes the value.
        before: the call that last did; None: there was none.
    """
    return 0.0 if before is None else 1 / (call - before)


class Forecast:
    """Tensors on their own static memory, with their last true values and the slopes between these.

    `rates` [tensors] float32, in the order of `names`, is where each value that is learnt finds its `rate`. It lies on
    the device, so that recorded work reads it anew.
    """

    def __init__(self, tensors: Mapping[str, "torch.Tensor"]) -> None:
        import torch

        self.names = tuple(tensors)
        self._pieces = {name: [*zip(*map(_pieces, _kept(tensor)), strict=True)] for name, tensor in tensors.items()}
        self.rates = torch.zeros(len(tensors), dtype=torch.float32, device=next(iter(tensors.values())).device)

    def learn(self, names: Iterable[str]) -> None:
        """Take what the tensors hold for true: an engine has just computed them."""
        for name in names:
            place = self.names.index(name)
            for values, last, slope in self._pieces[name]:
                slope.copy_(values).sub_(last).mul_(self.rates[place].to(values.dtype))
                last.copy_(values)

    def advance(self, names: Iterable[str]) -> None:
        """Move the tensors on by one call that does not compute them."""
        for name in names:
            for values, _, slope in self._pieces[name]:
                values.add_(slope)

    def forget(self) -> None:
        """Nothing of one generation may reach another; what was not finite must not stay either."""
        self.rates.zero_()
        for pieces in self._pieces.values():
            for _, last, slope in pieces:
                last.zero_()
                slope.zero_()


def _kept(tensor: "torch.Tensor") -> tuple["torch.Tensor", ...]:
    """The tensor, its last true value, and its slope."""
    import torch

    return tensor, torch.zeros_like(tensor), torch.zeros_like(tensor)


def _pieces(tensor: "torch.Tensor") -> Sequence["torch.Tensor"]:
    """Its memory in pieces that one thread works on: torch's other threads would spin when the engine wants the cores.

    On a GPU it is one piece.
    """
    pieces: Sequence[torch.Tensor] = tensor.view(-1).split(tensor.numel() if tensor.is_cuda else _PIECE)
    return pieces
