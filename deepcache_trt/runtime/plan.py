"""Plans: which variant runs at each call of the denoiser in one generation.

A plan is made before the loop starts, by a policy, from the number of calls alone. Timesteps are never looked up:
samplers such as PNDM and Heun visit the same one twice.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepcache_trt.runtime.decision import Rule
from deepcache_trt.runtime.forecast import FORECASTERS, NEVER

FULL = "full"  # computes everything, and each tap that another variant consumes
SKIP = "skip"  # no call of the model at all: its last prediction is used again

# Up to so many calls a generation has little to reuse.
FEW_CALLS = 8


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What runs at each call of the denoiser.

    Attributes:
        variants: of each call, in order.
        forecast: how what a call reuses is extrapolated, one of `FORECASTERS`; None: it is reused as it is.
        rule: decides about each call but the first when it comes; `variants` are then full ones. None: nothing does.
    """

    variants: tuple[str, ...]
    forecast: str | None = None
    rule: Rule | None = None

    def __post_init__(self) -> None:
        assert self.forecast is None or self.forecast in FORECASTERS, f"no forecaster {self.forecast!r}"
        assert not self.variants or self.variants[0] == FULL, "the first call has nothing to reuse"

    def __len__(self) -> int:
        return len(self.variants)

    @property
    def full_steps(self) -> tuple[int, ...]:
        """The indices of the full calls."""
        return tuple(i for i, variant in enumerate(self.variants) if variant == FULL)

    def forecast_rows(self, computing: Sequence[Collection[str]]) -> NDArray[np.float64]:
        """[n, m · columns]: the `Forecaster.rows` of m tensors at each call; no columns where nothing is forecast.

        Args:
            computing: the variants that compute each of them.
        """
        if self.forecast is None:
            return np.zeros([len(self), 0])
        import torch

        forecaster = FORECASTERS[self.forecast]
        shape = len(self), len(computing), forecaster.slots
        ages, slots = np.full(shape, NEVER), np.zeros(shape[:2])
        for number, variants in enumerate(computing):
            of_slots, count = np.full(forecaster.slots, NEVER), 0
            for call, variant in enumerate(self.variants):
                ages[call, number], slots[call, number] = of_slots, count % forecaster.slots
                if variant in variants:
                    of_slots[count % forecaster.slots], count = 0, count + 1
                of_slots += 1
        rows = forecaster.rows(torch.from_numpy(ages), torch.from_numpy(slots))
        return rows.flatten(1).numpy()


def gain_in_words(plan: Plan) -> str:
    """The most that caching can gain in a plan, by the count of its full calls; "" for a plan of no calls."""
    calls, full = len(plan), len(plan.full_steps)
    if full == calls:
        return "every call is full, nothing is reused" if calls else ""
    return (
        f"{full} of {calls} calls {'is' if full == 1 else 'are'} full: even if the others cost nothing, "
        f"the denoiser is at most {calls / full:.1f} times as fast"
    )
