"""Forecasts: what a step reuses, extrapolated from its last few true values, those that an engine computed.

    forecast = Σ_j weights[j] · true[j]

The weights follow from the ages of the true values alone, from how many calls ago each was computed: a polynomial is
laid through them, and taken at age 0. So a plan says all of them beforehand, and the device reads those of a call, and
where in its ring of true values a new one goes, from a row of numbers.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

# Elements; from 32,768 on torch takes several threads.
_PIECE = 16_384


def through(ages: tuple[int, ...]) -> NDArray[np.float64]:
    """The weights of the polynomial through all values, as Lagrange has it.

    It is the Taylor expansion of TaylorSeer (Liu et al. 2025, equation 4), of order len(ages) - 1, with divided
    differences for derivatives: the distances may differ.

    Args:
        ages: distinct, above 0.
    """
    return np.array([np.prod([other / (other - age) for other in ages if other != age]) for age in ages])


@dataclass(frozen=True, kw_only=True)
class Forecaster:
    """One way to extrapolate.

    Attributes:
        slots: how many true values it makes use of, at most.
        weights: of that many or fewer, by their ages, oldest first.
    """

    slots: int
    weights: Callable[[tuple[int, ...]], NDArray[np.float64]]


FORECASTERS: Mapping[str, Forecaster] = {
    "taylor1": Forecaster(slots=2, weights=through),
}


def row(forecaster: Forecaster, computed_at: Sequence[int], call: int) -> NDArray[np.float64]:
    """[slots + 1] of one tensor at a call: the weights of what lies in its ring, then the slot for what is computed.

    Args:
        forecaster: which.
        computed_at: the calls before this one that computed it.
        call: this one.
    """
    slots, count = forecaster.slots, len(computed_at)
    found = np.zeros(slots + 1)
    if last := tuple(call - before for before in computed_at[-slots:]):
        found[np.arange(count - len(last), count) % slots] = _weights(forecaster, last)
    found[slots] = count % slots
    return found


@lru_cache(maxsize=4096)
def _weights(forecaster: Forecaster, ages: tuple[int, ...]) -> NDArray[np.float64]:
    """They recur with every interval of a plan, and with every image."""
    return forecaster.weights(ages)


class Forecast:
    """Tensors on their own static memory, each with a ring of its last true values.

    `rows` [tensors, slots + 1] float32, in the order of `names`, is where each tensor finds its `row` for a call. It
    lies on the device, so that recorded work reads it anew.
    """

    def __init__(self, forecaster: Forecaster, tensors: Mapping[str, "torch.Tensor"]) -> None:
        import torch

        self._forecaster = forecaster
        self._computed_at: dict[str, list[int]] = {name: [] for name in tensors}
        self._pieces = {name: _with_rings(tensor, forecaster.slots) for name, tensor in tensors.items()}
        device = next(iter(tensors.values())).device
        self.rows = torch.zeros(len(tensors), forecaster.slots + 1, dtype=torch.float32, device=device)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the tensors."""
        return tuple(self._pieces)

    def prepare(self, call: int) -> None:
        """Fill the rows for a call that the host starts by itself."""
        import torch

        if not any(self._computed_at.values()):
            self.rows.zero_()  # which is what they are then, and needs no copy from the host
            return
        rows = [row(self._forecaster, calls, call) for calls in self._computed_at.values()]
        self.rows.copy_(torch.from_numpy(np.stack(rows)))

    def note(self, call: int, names: Collection[str]) -> None:
        """Remember what a call that the host started has computed."""
        for name in self._computed_at.keys() & names:
            self._computed_at[name].append(call)

    def learn(self, names: Iterable[str]) -> None:
        """Take what the tensors hold for true: an engine has just computed them."""
        for name in names:
            slot = self.rows[self.names.index(name), -1:].long()
            for values, ring in self._pieces[name]:
                ring.index_copy_(0, slot, values[None])

    def extrapolate(self, names: Iterable[str]) -> None:
        """Give the tensors the values that are forecast for this call."""
        for name in names:
            first, *others = self.rows[self.names.index(name), :-1].split(1)
            for values, ring in self._pieces[name]:
                total = ring[0] * first  # float32, whatever the tensor is: rounded weights would not sum to 1
                for true, weight in zip(ring[1:], others, strict=True):
                    total.addcmul_(true, weight)
                values.copy_(total)

    def forget(self) -> None:
        """Nothing of one generation may reach another; what was not finite must not stay either."""
        self.rows.zero_()
        for calls in self._computed_at.values():
            calls.clear()
        for pieces in self._pieces.values():
            for _, ring in pieces:
                ring.zero_()


def _with_rings(tensor: "torch.Tensor", slots: int) -> Sequence[tuple["torch.Tensor", "torch.Tensor"]]:
    """Its memory in pieces [p], each with a ring [slots, p], that one thread works on.

    torch's other threads would spin when the engine wants the cores. On a GPU it is one piece.
    """
    size = tensor.numel() if tensor.is_cuda else _PIECE
    return [(values, values.new_zeros(slots, len(values))) for values in tensor.view(-1).split(size)]
