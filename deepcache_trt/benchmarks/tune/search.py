"""The search for a plan: the best fidelity that a budget buys.

Candidates are enumerated, not sampled: every schedule with every window, forecast, share of skipped calls, branch and
interval. What each one costs follows from what a call of each variant costs, which is counted or timed once; so of each
kind only the shortest interval within the budget is drawn, which is its most faithful. Successive halving (Jamieson and
Talwalkar, 2016) over the seeds spends the drawing on those that are near the top.
"""

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Generic, TypeVar

from deepcache_trt.errors import DeepCacheError
from deepcache_trt.runtime.decision import CRITERIA
from deepcache_trt.runtime.plan import Plan
from deepcache_trt.runtime.policies import Adaptive, Policy, deepcache
from deepcache_trt.runtime.policies.deepcache import SHALLOW, DeepCache

MACS, SECONDS = "MACs", "seconds"

DEFAULT = DeepCache()
UNCACHED = DeepCache(cache_interval=1)

INTERVALS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 25)
# The schedules, with the center of "quad_center" as a share of the steps: the paper's 15 of 50, and later ones.
_SCHEDULES: tuple[tuple[str, float | None, float | None], ...] = (
    ("uniform", None, None),
    ("quad", 1.2, None),
    ("quad", 1.5, None),
    ("quad_center", 1.2, 0.3),
    ("quad_center", 1.4, 0.3),
    ("quad_center", 1.2, 0.6),
    ("quad_center", 1.2, 0.8),
)
# Shares of the steps that are full at the start and at the end.
_WINDOWS = ((0.0, 0.0), (0.1, 0.0), (0.0, 0.06), (0.0, 0.12))
FORECASTS = (None, *deepcache.FORECASTS)
_SKIPS = (None, 1, 2)

# Of rules that decide at run time.
_THRESHOLDS = (0.02, 0.05, 0.1, 0.2, 0.4)
_IN_A_ROW = (3, 5)

# Of one rung of the halving so many go on, and of the last one at least these are left.
_KEPT, _FINALISTS = 1 / 3, 6
_SWEPT = 3  # kinds whose every interval is drawn for the front


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What calls cost.

    Attributes:
        unit: `MACS` or `SECONDS`.
        whole: of one uncached image.
        calls: over that of a full call at branch 0, by branch and by whether there is a forecast, for each variant.
    """

    unit: str
    whole: float
    calls: Mapping[tuple[int, bool], Mapping[str, float]]

    def share(self, policy: DeepCache, steps: int) -> float:
        """What a plan costs over what the uncached image does."""
        return self.of(policy, policy.plan(steps))

    def of(self, policy: DeepCache | Adaptive, plan: Plan) -> float:
        """The same of what a run of a policy took."""
        calls = self.calls[policy.cache_branch_id, policy.forecast is not None]
        return sum(calls[variant] for variant in plan.variants) / len(plan)


Chosen = TypeVar("Chosen", bound=Policy, covariant=True)


@dataclass(frozen=True, kw_only=True)
class Result(Generic[Chosen]):
    """A candidate that was drawn.

    Attributes:
        policy: how it caches.
        cost: over that of the uncached image.
        errors: `fidelity.relative_error` of the final latents against the uncached ones, for each seed.
    """

    policy: Chosen
    cost: float
    errors: tuple[float, ...]

    @property
    def error(self) -> float:
        """The mean over the seeds."""
        return statistics.mean(self.errors)


ErrorOf = Callable[[DeepCache, int], float]


def candidates(steps: int, branches: Sequence[int]) -> list[DeepCache]:
    """Everything that is considered, each plan once."""
    distinct: dict[Any, DeepCache] = {}
    for kind in _kinds(steps, branches):
        for interval in INTERVALS:
            policy = replace(kind, cache_interval=interval)
            try:
                plan = policy.plan(steps)
            except DeepCacheError:  # a schedule that has no such number of distinct steps
                continue
            branch = policy.cache_branch_id if SHALLOW in plan.variants else branches[0]
            distinct.setdefault((branch, plan), replace(policy, cache_branch_id=branch))
    return list(distinct.values())


def _kinds(steps: int, branches: Sequence[int]) -> Iterator[DeepCache]:
    """All but the interval."""
    for (mode, pow, center), (before, after) in product(_SCHEDULES, _WINDOWS):
        for forecast, skip, branch in product(FORECASTS, _SKIPS, branches):
            yield DeepCache(
                skip_mode=mode,
                pow=pow,
                center=None if center is None else round(center * steps),
                disable_cache_before_step=round(before * steps) or None,
                disable_cache_after_step=steps - round(after * steps) if round(after * steps) else None,
                forecast=forecast,
                skip_interval=skip,
                cache_branch_id=branch,
            )


def adaptive_kinds(branch: int) -> list[list[Adaptive]]:
    """Rules that decide at run time, by all but the threshold, the nearest of each kind first.

    They are drawn at the cheapest branch alone: what they cost is known only afterwards.
    """
    return [
        [
            Adaptive(
                threshold=threshold,
                criterion=criterion,
                max_consecutive=in_a_row,
                forecast=forecast,
                cache_branch_id=branch,
            )
            for threshold in _THRESHOLDS
        ]
        for criterion, in_a_row, forecast in product(CRITERIA, _IN_A_ROW, FORECASTS)
    ]


def kind_of(policy: DeepCache) -> DeepCache:
    """A candidate without its interval."""
    return replace(policy, cache_interval=1)


def within(budget: float, plans: Iterable[DeepCache], costs: Costs, steps: int) -> list[DeepCache]:
    """Of each kind the most faithful that the budget buys: the shortest interval.

    Raises:
        DeepCacheError: nothing is as cheap as that.
    """
    everything = [(costs.share(policy, steps), policy) for policy in plans]
    best: dict[DeepCache, tuple[float, DeepCache]] = {}
    for cost, policy in everything:
        kind = kind_of(policy)
        if cost <= budget and (kind not in best or policy.cache_interval < best[kind][1].cache_interval):
            best[kind] = cost, policy
    if not best:
        least = min(cost for cost, _ in everything)
        raise DeepCacheError(
            f"a budget of {budget:.1%} of the uncached {costs.unit} is below the cheapest plan's {least:.1%}; allow at "
            f"least that: --macs {least:.2f}, or --speedup {1 / least:.1f}, or fewer steps"
        )
    return [policy for _, policy in best.values()]


def halve(
    plans: Sequence[DeepCache], error_of: ErrorOf, seeds: Sequence[int], tell: Callable[[str], None]
) -> dict[DeepCache, tuple[float, ...]]:
    """Successive halving: all are drawn from the first seed, and with every rung fewer from twice as many.

    Returns:
        The errors of the last ones for all seeds, the best first.
    """
    errors: dict[DeepCache, tuple[float, ...]] = dict.fromkeys(plans, ())
    done = 0
    while done < len(seeds):
        rung = seeds[done : max(1, 2 * done)]
        tell(f"{len(errors)} candidates, seeds {', '.join(map(str, rung))}")
        errors = {plan: (*before, *(error_of(plan, seed) for seed in rung)) for plan, before in errors.items()}
        done += len(rung)
        ranked = sorted(errors, key=lambda plan: statistics.mean(errors[plan]))
        left = max(_FINALISTS, round(_KEPT * len(ranked))) if done < len(seeds) else len(ranked)
        errors = {plan: errors[plan] for plan in ranked[:left]}
    return errors


def pareto(results: Iterable[Result[DeepCache]]) -> list[Result[DeepCache]]:
    """Those than which none is both cheaper and better, from the cheapest on."""
    front: list[Result[DeepCache]] = []
    for result in sorted(results, key=lambda result: (result.cost, result.error)):
        if not front or result.error < front[-1].error:
            front.append(result)
    return front


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a search found.

    Attributes:
        best: the best within the budget.
        budget: over the cost of the uncached image.
        reuse: plain reuse, as `DEFAULT`, at every interval.
        front: of everything that was drawn from all seeds.
        considered: how many candidates there were, and how many of them were drawn.
    """

    best: Result[DeepCache]
    budget: float
    reuse: tuple[Result[DeepCache], ...]
    front: tuple[Result[DeepCache], ...]
    considered: tuple[int, int]

    @property
    def reuse_within(self) -> Result[DeepCache] | None:
        """The best of plain reuse that the budget buys."""
        bought = [result for result in self.reuse if result.cost <= self.budget]
        return min(bought, key=lambda result: result.error, default=None)


def search(
    budget: float,
    *,
    steps: int,
    branches: Sequence[int],
    costs: Costs,
    error_of: ErrorOf,
    seeds: Sequence[int],
    tell: Callable[[str], None],
) -> Search:
    """Find the best plan within a budget, and what other budgets would buy.

    Args:
        budget: over the cost of the uncached image.
        steps: of denoising.
        branches: that are considered.
        costs: of calls.
        error_of: draws a candidate from a seed.
        seeds: at least one.
        tell: called with a line about each stage.

    Raises:
        DeepCacheError: the budget is below every plan.
    """
    everything = candidates(steps, branches)
    drawn = halve(within(budget, everything, costs, steps), error_of, seeds, tell)
    finalists = [Result(policy=plan, cost=costs.share(plan, steps), errors=errors) for plan, errors in drawn.items()]
    kinds = dict.fromkeys([kind_of(DEFAULT), *(kind_of(result.policy) for result in finalists)][: _SWEPT + 1])
    swept = [plan for plan in everything if kind_of(plan) in kinds and plan not in drawn]
    tell(f"{len(swept)} more for the front")
    results = [
        *finalists,
        *(
            Result(policy=plan, cost=costs.share(plan, steps), errors=tuple(error_of(plan, seed) for seed in seeds))
            for plan in swept
        ),
    ]
    return Search(
        best=min((result for result in results if result.cost <= budget), key=lambda result: result.error),
        budget=budget,
        reuse=tuple(sorted((r for r in results if kind_of(r.policy) == kind_of(DEFAULT)), key=lambda r: r.cost)),
        front=tuple(pareto(results)),
        considered=(len(everything), len(drawn) + len(swept)),
    )
