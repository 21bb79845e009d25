"""What is searched: samplers with counts of steps, and with each of them every way to cache.

Candidates are enumerated, not sampled: every schedule with every window, forecast, share of skipped calls, branch and
interval, and no cache at all.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Generic, TypeVar

from deepcache_trt.errors import DeepCacheError
from deepcache_trt.runtime.decision import CRITERIA
from deepcache_trt.runtime.plan import FULL, Plan
from deepcache_trt.runtime.policies import Adaptive, Policy, deepcache
from deepcache_trt.runtime.policies.deepcache import SHALLOW, DeepCache
from deepcache_trt.samplers import Sampler

DEFAULT = DeepCache()
UNCACHED = DeepCache(cache_interval=1)

INTERVALS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 25)
# The schedules, with the center of "quad_center" as a share of the calls: the paper's 15 of 50, and later ones.
_SCHEDULES: tuple[tuple[str, float | None, float | None], ...] = (
    ("uniform", None, None),
    ("quad", 1.2, None),
    ("quad", 1.5, None),
    ("quad_center", 1.2, 0.3),
    ("quad_center", 1.4, 0.3),
    ("quad_center", 1.2, 0.6),
    ("quad_center", 1.2, 0.8),
)
# Shares of the calls that are full at the start and at the end.
_WINDOWS = ((0.0, 0.0), (0.1, 0.0), (0.0, 0.06), (0.0, 0.12))
FORECASTS = (None, *deepcache.FORECASTS)
_SKIPS = (None, 1, 2)

# Of rules that decide at run time.
_THRESHOLDS = (0.02, 0.05, 0.1, 0.2, 0.4)
_IN_A_ROW = (3, 5)

Chosen = TypeVar("Chosen", bound=Policy, covariant=True)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """A sampler with a count of steps.

    Attributes:
        sampler: which.
        steps: of denoising, as a pipeline is asked for.
        calls: of the denoiser that these make, which are more than the steps for some samplers, as Heun's.
    """

    sampler: Sampler
    steps: int
    calls: int

    @property
    def in_words(self) -> str:
        """For a person, e.g. "DDIM 20"."""
        return f"{self.sampler.name} {self.steps}"


@dataclass(frozen=True, kw_only=True)
class Candidate(Generic[Chosen]):
    """One way to draw."""

    sampling: Sampling
    policy: Chosen

    @property
    def plan(self) -> Plan:
        """Of its calls."""
        return self.policy.plan(self.sampling.calls)

    @property
    def caches(self) -> bool:
        """Whether it is another than the uncached run."""
        return self.policy != UNCACHED

    @property
    def in_words(self) -> str:
        """For a person, e.g. "DDIM 20, interval 3"."""
        return f"{self.sampling.in_words}, {self.policy.in_words}"


Planned = Candidate[DeepCache]
AnyCandidate = Candidate[DeepCache | Adaptive]


def uncached(sampling: Sampling) -> Planned:
    """The run of a sampler that caches nothing."""
    return Candidate(sampling=sampling, policy=UNCACHED)


def candidates(samplings: Sequence[Sampling], branches: Sequence[int]) -> list[Planned]:
    """Everything that is considered, each plan of each sampler once, the uncached ones first of theirs."""
    return [
        Candidate(sampling=sampling, policy=policy)
        for sampling in samplings
        for policy in [UNCACHED, *_policies(sampling.calls, branches)]
    ]


def _policies(calls: int, branches: Sequence[int]) -> list[DeepCache]:
    """Those that reuse something."""
    distinct: dict[Any, DeepCache] = {}
    for kind in _kinds(calls, branches):
        for interval in INTERVALS:
            policy = replace(kind, cache_interval=interval)
            try:
                plan = policy.plan(calls)
            except DeepCacheError:  # a schedule that has no such number of distinct steps
                continue
            if set(plan.variants) == {FULL}:
                continue
            branch = policy.cache_branch_id if SHALLOW in plan.variants else branches[0]
            distinct.setdefault((branch, plan), replace(policy, cache_branch_id=branch))
    return list(distinct.values())


def _kinds(calls: int, branches: Sequence[int]) -> Iterator[DeepCache]:
    """All but the interval."""
    for (mode, pow, center), (before, after) in product(_SCHEDULES, _WINDOWS):
        for forecast, skip, branch in product(FORECASTS, _SKIPS, branches):
            yield DeepCache(
                skip_mode=mode,
                pow=pow,
                center=None if center is None else round(center * calls),
                disable_cache_before_step=round(before * calls) or None,
                disable_cache_after_step=calls - round(after * calls) if round(after * calls) else None,
                forecast=forecast,
                skip_interval=skip,
                cache_branch_id=branch,
            )


def kind_of(candidate: Planned) -> Planned:
    """A candidate without its interval: of plain reuse that is the uncached run."""
    return replace(candidate, policy=replace(candidate.policy, cache_interval=1))


def is_plain(candidate: Planned) -> bool:
    """Whether it is uniform in all of the run, at the cheapest branch, and calls the model each time."""
    policy = candidate.policy
    return policy == DeepCache(cache_interval=policy.cache_interval, forecast=policy.forecast)


def adaptive_kinds(sampling: Sampling, branch: int) -> list[list[Candidate[Adaptive]]]:
    """Rules that decide at run time, by all but the threshold, the nearest of each kind first.

    They are drawn at the cheapest branch alone: what they cost is known only afterwards.
    """
    return [
        [
            Candidate(
                sampling=sampling,
                policy=Adaptive(
                    threshold=threshold,
                    criterion=criterion,
                    max_consecutive=in_a_row,
                    forecast=forecast,
                    cache_branch_id=branch,
                ),
            )
            for threshold in _THRESHOLDS
        ]
        for criterion, in_a_row, forecast in product(CRITERIA, _IN_A_ROW, FORECASTS)
    ]
