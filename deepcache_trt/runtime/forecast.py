"""Forecasts: what a step reuses, extrapolated from its last few true values, those that an engine computed.

    forecast = Σ_j weights[j] · true[j]

The weights follow from the ages of the true values alone, from how many calls ago each was computed: a polynomial is
laid through them, and taken at age 0. The device reads those of a call, and where in its ring of true values a new one
goes, from a row of numbers. A plan says all rows beforehand; where none does, each call makes its own on the device, so
that nothing of it is asked on the host.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Elements; from 32,768 on torch takes several threads.
_PIECE = 16_384

# The age of what was never computed.
NEVER = float("inf")


def through(ages: "torch.Tensor") -> "torch.Tensor":
    """The weights of the polynomial through all values, as Lagrange has it.

    It is the Taylor expansion of TaylorSeer (Liu et al. 2025, equation 4), of order k - 1 with k values, with divided
    differences for derivatives: the distances may differ.

    Args:
        ages: [..., slots], above 0, distinct but for those that are `NEVER`.

    Returns:
        The same shape; 0 where there is no value.
    """
    import torch

    there = ages.isfinite()
    own, other = ages.unsqueeze(-1), ages.unsqueeze(-2)
    of_two = there.unsqueeze(-1) & there.unsqueeze(-2) & (own != other)
    factors = torch.where(of_two, other / (other - own), 1.0)
    return factors.prod(-1) * there


@dataclass(frozen=True, kw_only=True)
class Forecaster:
    """One way to extrapolate.

    Attributes:
        slots: how many true values it makes use of, at most.
        weights: of what lies in that many slots, by their ages; see `through`.
    """

    slots: int
    weights: "Callable[[torch.Tensor], torch.Tensor]"

    def rows(self, ages: "torch.Tensor", slots: "torch.Tensor") -> "torch.Tensor":
        """[..., slots + 1]: the weights of what lies in a ring, then the slot for what is computed.

        Args:
            ages: [..., slots], of what lies in a ring.
            slots: [...], where a new value goes.
        """
        import torch

        return torch.cat([self.weights(ages), slots.unsqueeze(-1)], -1)


FORECASTERS: Mapping[str, Forecaster] = {
    "taylor1": Forecaster(slots=2, weights=through),
}


class Forecast:
    """Tensors on their own static memory, each with a ring of its last true values.

    `rows` [tensors, slots + 1] float32, in the order of `names`, is where each tensor finds its row for a call, see
    `Forecaster.rows`. It lies on the device, so that recorded work reads it anew.
    """

    def __init__(self, forecaster: Forecaster, tensors: Mapping[str, "torch.Tensor"]) -> None:
        import torch

        self._forecaster = forecaster
        self._pieces = {name: _with_rings(tensor, forecaster.slots) for name, tensor in tensors.items()}
        device = next(iter(tensors.values())).device
        shape = len(tensors), forecaster.slots
        self._ages = torch.full(shape, NEVER, dtype=torch.float32, device=device)
        self._slots = torch.zeros(len(tensors), dtype=torch.float32, device=device)
        self.rows = torch.zeros(shape[0], shape[1] + 1, dtype=torch.float32, device=device)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the tensors."""
        return tuple(self._pieces)

    def prepare(self) -> None:
        """Fill the rows for a call, the next one after that for which this was done last."""
        self._ages.add_(1)
        self.rows.copy_(self._forecaster.rows(self._ages, self._slots))

    def learn(self, names: Iterable[str]) -> None:
        """Take what the tensors hold for true: an engine has just computed them."""
        for name in names:
            number = self.names.index(name)
            slot = self.rows[number, -1:].long()
            for values, ring in self._pieces[name]:
                ring.index_copy_(0, slot, values[None])
            self._ages[number].index_fill_(0, slot, 0)
            self._slots[number].add_(1).remainder_(self._forecaster.slots)

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
        self._ages.fill_(NEVER)
        self._slots.zero_()
        for pieces in self._pieces.values():
            for _, ring in pieces:
                ring.zero_()


def _with_rings(tensor: "torch.Tensor", slots: int) -> Sequence[tuple["torch.Tensor", "torch.Tensor"]]:
    """Its memory in pieces [p], each with a ring [slots, p], that one thread works on.

    torch's other threads would spin when the engine wants the cores. On a GPU it is one piece.
    """
    size = tensor.numel() if tensor.is_cuda else _PIECE
    return [(values, values.new_zeros(slots, len(values))) for values in tensor.view(-1).split(size)]
