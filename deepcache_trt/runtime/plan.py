"""Plans: which variant runs at each U-Net call of one generation.

A plan is made before the loop starts, from the number of calls alone. Timesteps are never looked up: samplers such as
PNDM and Heun visit the same one twice.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from deepcache_trt.errors import DeepCacheError, UnknownNameError, did_you_mean
from deepcache_trt.runtime.forecast import rate

FULL, SHALLOW = "full", "shallow"
SKIP = "skip"  # no call of the model at all: its last prediction is used again

FORECASTS = ("taylor1",)
SKIP_MODES = ("uniform", "quad", "quad_center")

# Up to so many calls a generation has little to reuse.
FEW_CALLS = 8

# The quad schedules lower the exponent in steps of 0.02, so a huge one would search for ever.
_MAX_POW = 10


@dataclass(frozen=True, kw_only=True)
class CacheParams:
    """How a generation is cached; the names are those of DeepCache and of diffusers' own caches.

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
        forecast: "taylor1" extrapolates what a call reuses, the deep features or the skipped prediction, from its last
            two true values; None uses the last one as it is.
    """

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
        _check_name("skip_mode", self.skip_mode, SKIP_MODES)
        if self.forecast is not None:
            _check_name("forecast", self.forecast, FORECASTS)
        if self.skip_interval is not None:
            _check_integer("skip_interval", self.skip_interval, 1)
        _check_integer("cache_interval", self.cache_interval, 1)
        _check_integer("cache_branch_id", self.cache_branch_id, 0)
        for name in ("center", "disable_cache_before_step", "disable_cache_after_step"):
            if getattr(self, name) is not None:
                _check_integer(name, getattr(self, name), 0)
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
                _check_integer("a step of full_steps", step, 0)
            object.__setattr__(self, "full_steps", tuple(sorted(set(steps))))

    @classmethod
    def names(cls) -> list[str]:
        """The names of the fields."""
        return [field.name for field in fields(cls)]


def in_words(params: CacheParams) -> str:
    """How a generation is cached, for a person, e.g. "interval 3, quad 1.5, taylor1"; other ways have other words."""
    if params == CacheParams(cache_interval=1):
        return "uncached"
    schedule = params.skip_mode if params.pow is None else f"{params.skip_mode} {params.pow:g}"
    every = {1: "no cached calls", 2: "every other cached call"}
    words = {
        f"interval {params.cache_interval}": params.full_steps is None,
        f"full at {', '.join(map(str, params.full_steps or ()))}": params.full_steps is not None,
        f"branch {params.cache_branch_id}": params.cache_branch_id > 0,
        schedule + ("" if params.center is None else f" around {params.center}"): params.skip_mode != "uniform",
        f"full before {params.disable_cache_before_step}": params.disable_cache_before_step is not None,
        f"full from {params.disable_cache_after_step}": params.disable_cache_after_step is not None,
        every.get(params.skip_interval or 0, f"without cached call {params.skip_interval} in {params.skip_interval}"): (
            params.skip_interval is not None
        ),
        str(params.forecast): params.forecast is not None,
    }
    return ", ".join(word for word, said in words.items() if said)


def _check_name(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UnknownNameError(
            f"unknown {name} {value!r}{did_you_mean(str(value), list(known))}; known: {', '.join(known)}"
        )


def _check_integer(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise DeepCacheError(f"{name} must be a whole number of at least {least}, not {value!r}")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The variant of each U-Net call, in order, and whether what a call reuses is extrapolated."""

    variants: tuple[str, ...]
    forecast: bool = False

    def __post_init__(self) -> None:
        assert not self.variants or self.variants[0] == FULL, "the first call has nothing to reuse"

    def __len__(self) -> int:
        return len(self.variants)

    @property
    def full_steps(self) -> tuple[int, ...]:
        """The indices of the full calls."""
        return tuple(i for i, variant in enumerate(self.variants) if variant == FULL)

    @property
    def forecast_rates(self) -> NDArray[np.float64]:
        """[n, 2]: the `forecast.rate` of the taps and of the prediction at each call; 0 where they are not computed."""
        rates = np.zeros([len(self), 2])
        for place, computing in enumerate(((FULL,), (FULL, SHALLOW))):
            before = None
            for call, variant in enumerate(self.variants):
                if variant in computing:
                    rates[call, place] = rate(call, before)
                    before = call
        return rates


def gain_in_words(plan: Plan) -> str:
    """The most that caching can gain in a plan, by the count of its full calls; "" for a plan of no calls."""
    calls, full = len(plan), len(plan.full_steps)
    if full == calls:
        return "every call is full, nothing is reused" if calls else ""
    return (
        f"{full} of {calls} calls {'is' if full == 1 else 'are'} full: even if the others cost nothing, "
        f"the denoiser is at most {calls / full:.1f} times as fast"
    )


def make_plan(params: CacheParams, calls: int) -> Plan:
    """The plan of a generation of `calls` U-Net calls."""
    if params.full_steps is not None:
        full = set(params.full_steps)
    elif params.cache_interval == 1:
        full = set(range(calls))
    elif params.skip_mode == "uniform":
        full = set(uniform(calls, params.cache_interval))
    elif params.skip_mode == "quad":
        full = set(quad(calls, params.cache_interval, params.pow or 1.2))
    else:
        center = round(0.3 * calls) if params.center is None else params.center
        full = set(quad_center(calls, params.cache_interval, center, params.pow or 1.4))
    before = params.disable_cache_before_step or 0
    after = calls if params.disable_cache_after_step is None else params.disable_cache_after_step
    full |= {0, *range(min(before, calls)), *range(after, calls)}
    variants = _with_skips([FULL if i in full else SHALLOW for i in range(calls)], params.skip_interval)
    return Plan(variants=tuple(variants), forecast=params.forecast is not None)


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
