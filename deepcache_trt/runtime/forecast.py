"""Forecasts: a cached tensor moved along the line through its last two true values.

The first-order Taylor expansion of TaylorSeer (Liu et al. 2025, equation 4), for whatever a step reuses.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Forecast:
    """Tensors on their own static memory, with their last true values and the slopes between these.

    `rates` [2] float32 is where each value that is learnt finds 1 / (calls since the last one), or 0 if there was none:
    the first for taps, the second for predictions. It lies on the device, so that recorded work reads it anew.
    """

    TAPS, PREDICTIONS = 0, 1

    def __init__(self, taps: Mapping[str, "torch.Tensor"], predictions: Mapping[str, "torch.Tensor"]) -> None:
        import torch

        self._tensors = {**taps, **predictions}
        self._rate = {**dict.fromkeys(taps, self.TAPS), **dict.fromkeys(predictions, self.PREDICTIONS)}
        self._last = {name: torch.zeros_like(tensor) for name, tensor in self._tensors.items()}
        self._slopes = {name: torch.zeros_like(tensor) for name, tensor in self._tensors.items()}
        device = next(iter(self._tensors.values())).device
        self.rates = torch.zeros(2, dtype=torch.float32, device=device)

    def covers(self, name: str) -> bool:
        """Whether it is one of the tensors."""
        return name in self._tensors

    def learn(self, names: Iterable[str]) -> None:
        """Take what the tensors hold for true: an engine has just computed them."""
        for name in names:
            rate = self.rates[self._rate[name]].to(self._tensors[name].dtype)
            self._slopes[name].copy_(self._tensors[name]).sub_(self._last[name]).mul_(rate)
            self._last[name].copy_(self._tensors[name])

    def advance(self, names: Iterable[str]) -> None:
        """Move the tensors on by one call that does not compute them."""
        for name in names:
            self._tensors[name].add_(self._slopes[name])

    def forget(self) -> None:
        """Nothing of one generation may reach another; what was not finite must not stay either."""
        for tensor in (*self._last.values(), *self._slopes.values(), self.rates):
            tensor.zero_()
