"""DeepCache (Ma et al. 2023): a U-Net's deep features are kept for several calls, its shallow layers recomputed."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from deepcache_trt.errors import DeepCacheError, UnknownNameError, UnsupportedError
from deepcache_trt.models.taps import Variant
from deepcache_trt.runtime.forecast import FORECASTERS
from deepcache_trt.runtime.plan import FULL, SKIP, Plan
from deepcache_trt.runtime.policies.policy import Policy, check_integer, check_name

SHALLOW = "shallow"  # takes the tap at the branch for granted

FORECASTS = tuple(FORECASTERS)
SKIP_MODES = ("uniform", "quad", "quad_center")

# The quad schedules lower the exponent in steps of 0.02, so a huge one would search for ever.
_MAX_POW = 10


@dataclass(frozen=True, kw_only=True)
class DeepCache(Policy):
    """Deep features of a U-Net reused for several calls; the names are those of DeepCache and of diffusers' own caches.

    Attributes:
        cache_interval: N: about one call in N is full; 1 caches nothing.
        cache_branch_id: k: the skip connection at which the shallow layers begin, 0 the cheapest.
        skip_mode: "uniform", or "quad" and "quad_center" (the paper's non-uniform schedules).
        pow: the exponent of the quad schedules, above 1 and at most 10; None: 1.2 for "quad", 1.4 for "quad_center".
        center: the call around which "quad_center" crowds them; None: 0.3 of the calls, the paper's 15 of 50.
        full_steps: the indices of the full calls, instead of a schedule.
        disable_cache_before_step: every call before this one is full.
        disable_cache_after_step: every call from this one on is full.
        skip_interval: m: of the cached calls after a full one, each m-th does not call the model at all but takes its
            last prediction; 1: none of them does.
        forecast: extrapolates what a call reuses, the deep features or the skipped prediction: "taylor1" on the line
            through its last two true values; None uses the last one as it is.
    """

    kind: ClassVar[str] = "deepcache"

    cache_interval: int = 3
    cache_branch_id: int = 0
    skip_mode: str = "uniform"
    pow: float | None = None
    center: int | None = None
    full_steps: tuple[int, ...] | None = None
    disable_cache_before_step: int | None = None
    disable_cache_after_step: int | None = None
    skip_interval: int | None = None
    forecast: str | None = None

    def __post_init__(self) -> None:
        check_name("skip_mode", self.skip_mode, SKIP_MODES)
        if self.forecast is not None:
            check_name("forecast", self.forecast, FORECASTS)
        if self.skip_interval is not None:
            check_integer("skip_interval", self.skip_interval, 1)
        check_integer("cache_interval", self.cache_interval, 1)
        check_integer("cache_branch_id", self.cache_branch_id, 0)
        for name in ("center", "disable_cache_before_step", "disable_cache_after_step"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), 0)
        if self.pow is not None and not (isinstance(self.pow, int | float) and 1 < self.pow <= _MAX_POW):
            raise DeepCacheError(
                f"pow must be above 1 and at most {_MAX_POW}, not {self.pow!r}; the paper uses 1.2 to 1.5"
            )
        if self.pow is not None and self.skip_mode == "uniform":
            raise DeepCacheError(f"pow={self.pow} has no meaning for skip_mode='uniform'; use 'quad' or 'quad_center'")
        if self.center is not None and self.skip_mode != "quad_center":
            raise DeepCacheError(
                f"center={self.center} has no meaning for skip_mode={self.skip_mode!r}; use 'quad_center'"
            )
        if self.full_steps is not None:
            steps = tuple(self.full_steps)
            for step in steps:
                check_integer("a step of full_steps", step, 0)
            object.__setattr__(self, "full_steps", tuple(sorted(set(steps))))

    def variants(self, taps: Sequence[str]) -> tuple[Variant, ...]:
        """Those of the branch.

        Raises:
            UnknownNameError: the model has no such branch.
        """
        if self == DeepCache(cache_interval=1) and not any(name.removeprefix("tap_").isdigit() for name in taps):
            return (Variant(name=FULL),)
        tap, count = f"tap_{self.cache_branch_id}", sum(name.removeprefix("tap_").isdigit() for name in taps)
        if not count:
            raise UnknownNameError(
                f"policy {self.kind!r} caches at skip connections, and there are none; give another, as "
                "policy=Uncached() (--interval 1 of a command, or the --plan file of another policy)"
            )
        if tap not in taps:
            raise UnknownNameError(
                f"cache_branch_id={self.cache_branch_id} is outside 0…{count - 1}: there are {count} skip connections"
            )
        return variants_at(self.cache_branch_id)

    def plan(self, calls: int) -> Plan:
        """By the schedule, within the windows."""
        if self.full_steps is not None:
            full = set(self.full_steps)
        elif self.cache_interval == 1:
            full = set(range(calls))
        elif self.skip_mode == "uniform":
            full = set(uniform(calls, self.cache_interval))
        elif self.skip_mode == "quad":
            full = set(quad(calls, self.cache_interval, self.pow or 1.2))
        else:
            center = round(0.3 * calls) if self.center is None else self.center
            full = set(quad_center(calls, self.cache_interval, center, self.pow or 1.4))
        before = self.disable_cache_before_step or 0
        after = calls if self.disable_cache_after_step is None else self.disable_cache_after_step
        full |= {0, *range(min(before, calls)), *range(after, calls)}
        variants = _with_skips([FULL if i in full else SHALLOW for i in range(calls)], self.skip_interval)
        return Plan(variants=tuple(variants), forecast=self.forecast)

    @property
    def build_option(self) -> str:
        """What makes `deepcache-trt build` build for it."""
        return f"--branch {self.cache_branch_id}"

    @property
    def calibrating_option(self) -> str:
        """What makes `deepcache-trt build` build for it and for no other schedule of the same variants."""
        is_plain = self == DeepCache(cache_interval=self.cache_interval, cache_branch_id=self.cache_branch_id)
        return f"{self.build_option} --interval {self.cache_interval}" if is_plain else super().calibrating_option

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> "DeepCache":
        """As of every policy; the full steps are a list there."""
        steps = values.get("full_steps")
        if steps is not None and not isinstance(steps, list):
            raise DeepCacheError(f"full_steps must be a list such as [0, 4, 9], not {steps!r}")
        return cls(**values)

    @property
    def in_words(self) -> str:
        """For a person, e.g. "interval 3, quad 1.5, taylor1"; another policy has other words."""
        if self == DeepCache(cache_interval=1):
            return "uncached"
        schedule = self.skip_mode if self.pow is None else f"{self.skip_mode} {self.pow:g}"
        every = {1: "no cached calls", 2: "every other cached call"}
        words = {
            f"interval {self.cache_interval}": self.full_steps is None,
            f"full at {', '.join(map(str, self.full_steps or ()))}": self.full_steps is not None,
            f"branch {self.cache_branch_id}": self.cache_branch_id > 0,
            schedule + ("" if self.center is None else f" around {self.center}"): self.skip_mode != "uniform",
            f"full before {self.disable_cache_before_step}": self.disable_cache_before_step is not None,
            f"full from {self.disable_cache_after_step}": self.disable_cache_after_step is not None,
            every.get(self.skip_interval or 0, f"without cached call {self.skip_interval} in {self.skip_interval}"): (
                self.skip_interval is not None
            ),
            str(self.forecast): self.forecast is not None,
        }
        return ", ".join(word for word, said in words.items() if said)


def only_deepcache(policy: Policy) -> DeepCache:
    """The policy itself.

    Raises:
        UnsupportedError: it is of another kind.
    """
    if not isinstance(policy, DeepCache):
        raise UnsupportedError(f"policy {policy.kind!r} is not covered here; give a plan of {DeepCache.kind!r}")
    return policy


def variants_at(branch: int) -> tuple[Variant, Variant]:
    """All of a U-Net, and its shallow layers at branch k (Ma et al. 2023, section 3)."""
    tap = f"tap_{branch}"
    return Variant(name=FULL, emits=(tap,)), Variant(name=SHALLOW, consumes=(tap,))


def _with_skips(variants: Sequence[str], interval: int | None) -> Iterable[str]:
    since_full = 0
    for variant in variants:
        since_full = 0 if variant == FULL else since_full + 1
        yield SKIP if interval is not None and since_full and since_full % interval == 0 else variant


def uniform(calls: int, interval: int) -> list[int]:
    """Every `interval`-th call (DeepCache, section 3.3)."""
    return list(range(0, calls, interval))


def quad(calls: int, interval: int, pow: float) -> list[int]:
    """ceil(calls / interval) full calls, denser at the start (the schedule of DeepCache's LDM experiments).

    `pow` is lowered until rounding leaves that many distinct calls.
    """
    count = math.ceil(calls / interval)
    while True:
        steps = _distinct(np.linspace(0, calls ** (1 / pow), count + 1) ** pow)[:-1]
        if len(steps) == count:
            return steps
        pow = _lower(pow, f"quad over {calls} calls at interval {interval}")


def quad_center(calls: int, interval: int, center: int, pow: float) -> list[int]:
    """ceil(calls / interval) full calls, denser around `center` (DeepCache, section 3.3, "non-uniform 1:N").

    The root of a negative number is meant to be complex here, and its real part to be taken at the end.
    """
    count = math.ceil(calls / interval)
    if not 0 <= center < calls:
        raise DeepCacheError(f"center must be a call of the run, 0…{calls - 1}, not {center}")
    if count == 1:
        return [0]
    while True:
        ends = complex(-center) ** (1 / pow), (calls - center) ** (1 / pow)
        steps = [step + center for step in _distinct((np.linspace(*ends, count + 1) ** pow).real)]
        steps = sorted({0, *steps[1:-1]} & set(range(calls)))  # an exponent above 2 can lead out of the run
        if len(steps) == count:
            return steps
        pow = _lower(pow, f"quad_center over {calls} calls at interval {interval}, center {center}")


def _distinct(values: Iterable[float]) -> list[int]:
    return sorted({int(value) for value in values})  # truncates towards zero, as the original's int32 does


def _lower(pow: float, schedule: str) -> float:
    if pow - 0.02 <= 1:
        raise DeepCacheError(f"{schedule} has no exponent above 1 that gives distinct calls; use another interval")
    return pow - 0.02
