"""From activations that were seen to the scale that quantizes them with the least error."""

import numpy as np
import torch

from deepcache_trt.export.precision import Precision

# Of the magnitudes of what was seen.
_BINS = 2048

# Elements of one tensor that are counted; of a larger one every so-manieth is.
_COUNTED = 1 << 20

# Shares of the largest magnitude that are tried as the end of the range.
_SHARES = np.linspace(0.05, 1.0, 191)


class Magnitudes:
    """A histogram of the magnitudes of all elements of the tensors that were seen, the same for the same tensors."""

    def __init__(self) -> None:
        self.counts = np.zeros(_BINS)
        self.largest = 0.0
        self._end = 0.0  # of the last bin; doubles as larger ones come, so that bins are merged two by two

    def add(self, tensor: torch.Tensor) -> None:
        """See a tensor of any shape, float dtype and device."""
        seen = tensor.detach().flatten()
        if not seen.numel():
            return
        self.largest = max(self.largest, float(seen.abs().max()))
        self._reach(self.largest)
        step = -(-seen.numel() // _COUNTED)
        some = seen[::step].float().abs().cpu()
        # The largest may lie on the end itself, which numpy and torch count into the last bin.
        self.counts += torch.histc(some, _BINS, 0.0, self._end or 1.0).double().numpy()

    def _reach(self, magnitude: float) -> None:
        if self._end == 0.0:
            self._end = magnitude
        while self._end < magnitude:
            merged = self.counts.reshape(_BINS // 2, 2).sum(axis=1)
            self.counts = np.concatenate([merged, np.zeros(_BINS // 2)])
            self._end *= 2

    def scale(self, precision: Precision) -> float:
        """What to divide by before rounding.

        Of whole numbers, that with the least mean square error; numbers whose steps grow with them reach the largest.
        """
        if not self._end:
            return 1.0
        largest = precision.largest
        if not precision.is_whole:
            return self.largest / largest
        centres = (np.arange(_BINS) + 0.5) * (self._end / _BINS)
        ends = self.largest * _SHARES
        steps = ends[:, None] / largest
        back = np.minimum(np.round(centres / steps), largest) * steps
        errors = ((centres - back) ** 2 * self.counts).sum(axis=1)
        return float(ends[int(np.argmin(errors))] / largest)
