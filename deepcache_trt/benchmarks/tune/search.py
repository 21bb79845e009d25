"""The search for a plan: the best fidelity that a budget buys.

What each candidate costs follows from what a call of each variant costs, which is counted or timed once; so of each
kind only the shortest interval within the budget is drawn, which is its most faithful, and of a sampler whose uncached
run the budget buys that run alone. Where many samplers need a cache, a survey of the plainest candidates leaves two
of them. Successive halving (Jamieson and Talwalkar, 2016) over the seeds spends the drawing on those near the top.
"""

import functools
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic

from deepcache_trt.benchmarks.tune.candidates import (
    Candidate,
    Chosen,
    Planned,
    Sampling,
    candidates,
    is_plain,
    kind_of,
    uncached,
)
from deepcache_trt.benchmarks.tune.costs import Costs
from deepcache_trt.errors import DeepCacheError
from deepcache_trt.runtime.policies.deepcache import DeepCache

# Of one rung of the halving so many go on, and of the last one at least these are left.
_KEPT, _FINALISTS = 1 / 3, 6
_SURVEYED = 2  # samplers that a survey leaves
_SWEPT = 3  # kinds whose every interval is drawn for the front


@dataclass(frozen=True, kw_only=True)
class Result(Generic[Chosen]):
    """A candidate that was drawn.

    Attributes:
        candidate: how it draws.
        cost: over that of the reference.
        errors: how far from the truth, for each seed; `fidelity.relative_error` of the final latents by default.
    """

    candidate: Candidate[Chosen]
    cost: float
    errors: tuple[float, ...]

    @property
    def error(self) -> float:
        """The mean over the seeds."""
        return statistics.mean(self.errors)


ErrorOf = Callable[[Planned, int], float]
Tell = Callable[[str], None]


def within(budget: float, plans: Iterable[Planned], costs: Costs) -> list[Planned]:
    """Of each kind the most faithful that the budget buys: the shortest interval.

    Of a sampler whose uncached run is among that, it is this run alone: a cache only adds to its error.

    Raises:
        DeepCacheError: nothing is as cheap as that.
    """
    everything = [(costs.share(plan), plan) for plan in plans]
    best: dict[Planned, Planned] = {}
    for cost, plan in everything:
        kind = kind_of(plan)
        if cost <= budget and (kind not in best or plan.policy.cache_interval < best[kind].policy.cache_interval):
            best[kind] = plan
    if not best:
        least = min(cost for cost, _ in everything)
        raise DeepCacheError(
            f"a budget of {budget:.1%} of the uncached {costs.unit} is below the cheapest plan's {least:.1%}; allow at "
            f"least that: --macs {least:.2f}, or --speedup {1 / least:.1f}, or fewer steps"
        )
    whole = {plan.sampling for plan in best.values() if not plan.caches}
    return [plan for plan in best.values() if not plan.caches or plan.sampling not in whole]


def halve(
    plans: Sequence[Planned], error_of: ErrorOf, seeds: Sequence[int], tell: Tell
) -> dict[Planned, tuple[float, ...]]:
    """Successive halving: all are drawn from the first seed, and with every rung fewer from twice as many.

    Returns:
        The errors of the last ones for all seeds, the best first.
    """
    errors: dict[Planned, tuple[float, ...]] = dict.fromkeys(plans, ())
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


def survey(plans: Sequence[Planned], error_of: ErrorOf, seeds: Sequence[int], tell: Tell) -> list[Planned]:
    """Of those that cache, the plans of the samplers whose plain ones are best; the uncached ones stay."""
    caching: dict[Sampling, list[Planned]] = {}
    for plan in plans:
        if plan.caches:
            caching.setdefault(plan.sampling, []).append(plan)
    if len(caching) <= _SURVEYED:
        return [*plans]
    tell(f"a survey of {len(caching)} samplers and counts of steps that need a cache, to search {_SURVEYED} of them")
    # A budget that buys no plain one buys such as leave calls out, of which the first is the most like one.
    surveyed = [plan for each in caching.values() for plan in [*filter(is_plain, each)] or each[:1]]
    ranked = dict.fromkeys(plan.sampling for plan in halve(surveyed, error_of, seeds, tell))
    best = [*(ranked | dict.fromkeys(caching))][:_SURVEYED]
    return [plan for plan in plans if not plan.caches or plan.sampling in best]


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
        budget: over the cost of the reference.
        uncached: every sampler's run that caches nothing, the reference first.
        reuse: plain reuse, as `DEFAULT`, with every sampler at every interval.
        front: of everything that was drawn from all seeds.
        considered: how many candidates there were, and how many of them were drawn from all seeds.
    """

    best: Result[DeepCache]
    budget: float
    uncached: tuple[Result[DeepCache], ...]
    reuse: tuple[Result[DeepCache], ...]
    front: tuple[Result[DeepCache], ...]
    considered: tuple[int, int]

    @property
    def uncached_within(self) -> Result[DeepCache] | None:
        """The best of the uncached runs that the budget buys."""
        return self._best_of(self.uncached)

    @property
    def reuse_within(self) -> Result[DeepCache] | None:
        """The best of plain reuse that the budget buys."""
        return self._best_of(self.reuse)

    def _best_of(self, results: Iterable[Result[DeepCache]]) -> Result[DeepCache] | None:
        bought = [result for result in results if result.cost <= self.budget]
        return min(bought, key=lambda result: result.error, default=None)


def search(
    budget: float,
    *,
    samplings: Sequence[Sampling],
    branches: Sequence[int],
    costs: Costs,
    error_of: ErrorOf,
    seeds: Sequence[int],
    tell: Tell,
) -> Search:
    """Find the best candidate within a budget, and what other budgets would buy.

    Args:
        budget: over the cost of the reference.
        samplings: that are considered, the reference's first.
        branches: likewise.
        costs: of calls.
        error_of: draws a candidate from a seed.
        seeds: at least one.
        tell: called with a line about each stage.

    Raises:
        DeepCacheError: the budget is below every candidate.
    """
    everything, error = candidates(samplings, branches), functools.cache(error_of)
    drawn = halve(survey(within(budget, everything, costs), error, seeds, tell), error, seeds, tell)
    plain = [kind_of(plan) for plan in everything if is_plain(plan)]
    kinds = {*plain, *[*dict.fromkeys(map(kind_of, drawn))][:_SWEPT]}
    swept = [plan for plan in everything if kind_of(plan) in kinds and plan not in drawn]
    tell(f"{len(swept)} more for the front")
    results = [
        Result(candidate=plan, cost=costs.share(plan), errors=tuple(error(plan, seed) for seed in seeds))
        for plan in [*drawn, *swept]
    ]
    by_plan = {result.candidate: result for result in results}
    reuse = [result for result in results if result.candidate.caches and not kind_of(result.candidate).caches]
    return Search(
        best=min((result for result in results if result.cost <= budget), key=lambda result: result.error),
        budget=budget,
        uncached=tuple(by_plan[uncached(sampling)] for sampling in samplings),
        reuse=tuple(sorted(reuse, key=lambda result: result.cost)),
        front=tuple(pareto(results)),
        considered=(len(everything), len(results)),
    )
