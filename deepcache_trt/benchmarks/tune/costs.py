"""What candidates cost, and how much they may."""

from collections.abc import Mapping
from dataclasses import dataclass

from deepcache_trt.benchmarks.tune.candidates import AnyCandidate, Planned
from deepcache_trt.runtime.plan import Plan

MACS, SECONDS = "MACs", "seconds"


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What calls cost, of any sampler: the denoiser's share is by far the largest.

    Attributes:
        unit: `MACS` or `SECONDS`.
        whole: of one image of the reference, which is uncached.
        reference_calls: that the reference makes of the denoiser.
        calls: over that of a full call at branch 0, by branch and by whether there is a forecast, for each variant.
    """

    unit: str
    whole: float
    reference_calls: int
    calls: Mapping[tuple[int, bool], Mapping[str, float]]

    def share(self, candidate: Planned) -> float:
        """What a candidate costs over what the reference does."""
        return self.of(candidate, candidate.plan)

    def of(self, candidate: AnyCandidate, plan: Plan) -> float:
        """The same of what a run of a candidate took."""
        calls = self.calls[candidate.policy.cache_branch_id, candidate.policy.forecast is not None]
        return sum(calls[variant] for variant in plan.variants) / self.reference_calls


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What an image may cost: at most one of these is given.

    Attributes:
        macs: the share of the reference's operations.
        speedup: so many times as fast as the reference.
        seconds: of denoising one image.
    """

    macs: float | None = None
    speedup: float | None = None
    seconds: float | None = None

    @property
    def by_clock(self) -> bool:
        """Whether calls have to be timed for it."""
        return self.speedup is not None or self.seconds is not None

    @property
    def in_words(self) -> str:
        """What is given by the clock; "": nothing."""
        if self.seconds is not None:
            return f"{self.seconds:g} s an image"
        return "" if self.speedup is None else f"{self.speedup:g} times as fast"

    def share(self, costs: Costs, default: float) -> float:
        """Over the cost of the reference; `default` where nothing is given."""
        if self.seconds is not None:
            return self.seconds / costs.whole
        if self.speedup is not None:
            return 1 / self.speedup
        return default if self.macs is None else self.macs
