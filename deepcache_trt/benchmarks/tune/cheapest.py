"""The search for the fastest candidate that is near enough to the truth.

A sampler whose uncached run is not near enough is left out. Within a kind a longer interval is cheaper and no nearer,
so kinds are gone through one by one, each from the most faithful candidate on that would be cheaper than the best so
far, whatever its sampler; where that one is not near enough, nothing else of its kind is drawn. What is chosen is
checked on seeds that nothing was chosen by; where it is not near enough there, the search asks for as much more as was
missing. Rules that decide at run time are drawn too, by rising thresholds: what they cost is what they took.
"""

import functools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from deepcache_trt.benchmarks.tune.candidates import (
    UNCACHED,
    AnyCandidate,
    Candidate,
    Planned,
    Sampling,
    adaptive_kinds,
    candidates,
    is_plain,
    kind_of,
    uncached,
)
from deepcache_trt.benchmarks.tune.costs import Costs
from deepcache_trt.benchmarks.tune.search import Result, Tell
from deepcache_trt.errors import DeepCacheError
from deepcache_trt.runtime.plan import Plan
from deepcache_trt.runtime.policies import Adaptive, DeepCache

LossOf = Callable[[AnyCandidate, int], float]
Took = Callable[[Candidate[Adaptive], int], Plan]
Passed = Result[DeepCache | Adaptive]

# So often more is asked for, before there is taken to be no such plan.
_ATTEMPTS = 8


@dataclass(frozen=True, kw_only=True)
class Cheapest:
    """What a search found.

    Attributes:
        best: the cheapest that is near enough, with its losses on the seeds of the search.
        checked: its losses on seeds that nothing was chosen by.
        uncached: the runs that cache nothing and were near enough on the seeds of the search, the cheapest first.
        passed: what was near enough there, each cheaper than the one before it.
        considered: how many candidates there were, and how many of them were drawn.
        attempts: how often a candidate was checked on seeds of its own.
    """

    best: Passed
    checked: tuple[float, ...]
    uncached: tuple[Passed, ...]
    passed: tuple[Passed, ...]
    considered: tuple[int, int]
    attempts: int


def cheapest(
    bound: float,
    *,
    samplings: Sequence[Sampling],
    branches: Sequence[int],
    costs: Costs,
    loss_of: LossOf,
    took: Took,
    seeds: Sequence[int],
    unseen: Callable[[int], Sequence[int]],
    tell: Tell,
    truth: Planned | None = None,
) -> Cheapest:
    """Find the cheapest candidate whose mean loss is at most `bound`, on seeds that it was not chosen by too.

    Args:
        bound: of what `loss_of` gives, of which less is better.
        samplings: that are considered.
        branches: likewise.
        costs: of calls.
        loss_of: draws a candidate from a seed.
        took: the calls of such a drawing, where they were decided at run time.
        seeds: at least one.
        unseen: seeds for the check of each attempt, others each time.
        tell: called with a line about each stage.
        truth: the uncached run that losses are taken from, so that to find it is to find nothing; None: another one.

    Raises:
        DeepCacheError: none is near enough.
    """
    everything = [plan for plan in candidates(samplings, branches) if plan != truth and _saves(plan, costs)]
    rules = {sampling: adaptive_kinds(sampling, branches[0]) for sampling in samplings}
    drawn: dict[AnyCandidate, float] = {}

    @functools.cache
    def loss(candidate: AnyCandidate, seed: int) -> float:
        found = loss_of(candidate, seed)
        drawn.setdefault(candidate, found)
        return found

    asked = bound
    for attempt in range(1, _ATTEMPTS + 1):
        whole = _uncached(asked, everything, costs, loss, seeds)
        known = [result.candidate for result in whole] if truth is None else [truth]
        near = dict.fromkeys(candidate.sampling for candidate in known)
        plans = [plan for plan in everything if plan.caches and plan.sampling in near]
        kinds = [kind for sampling in near for kind in rules[sampling]]
        passed = whole[:1]
        passed += _passing(asked, _least(passed, costs, truth), plans, costs, loss, seeds)
        passed += _adapting(asked, _least(passed, costs, truth), kinds, costs, loss, took, seeds)
        if not passed:
            break
        best, fresh = passed[-1], unseen(attempt)
        tell(f"{len(drawn)} candidates drawn; checking {best.candidate.in_words} on seeds of its own")
        checked = tuple(loss_of(best.candidate, seed) for seed in fresh)
        if statistics.mean(checked) <= bound:
            considered = len(everything) + sum(len(kind) for kinds in rules.values() for kind in kinds), len(drawn)
            return Cheapest(
                best=best,
                checked=checked,
                uncached=tuple(whole),
                passed=tuple(passed),
                considered=considered,
                attempts=attempt,
            )
        asked = min(asked, best.error) - (statistics.mean(checked) - bound)
    raise DeepCacheError(
        f"of {len(everything)} plans and rules none is near enough on seeds that it was not chosen by: asked for was "
        f"{abs(bound):g}, and the nearest has {abs(min(drawn.values())):.4g}; allow more, or take more steps"
    )


def _saves(plan: Planned, costs: Costs) -> bool:
    """Whether it is cheaper than the uncached run of its sampler, or is that."""
    return not plan.caches or costs.share(plan) < costs.share(uncached(plan.sampling))


def _uncached(bound: float, plans: Sequence[Planned], costs: Costs, loss: LossOf, seeds: Sequence[int]) -> list[Passed]:
    """The uncached runs within the bound, the cheapest first, and of those of one cost the nearest."""
    found = [(plan, _losses(bound, plan, loss, seeds)) for plan in plans if not plan.caches]
    passed = [Result(candidate=plan, cost=costs.share(plan), errors=losses) for plan, losses in found if losses]
    return sorted(passed, key=lambda result: (result.cost, result.error))


def _least(passed: Sequence[Passed], costs: Costs, truth: Planned | None) -> float:
    """Below what cost there is something to find."""
    if passed:
        return passed[-1].cost
    return math.inf if truth is None else costs.share(truth)


def _passing(
    bound: float, least: float, plans: Sequence[Planned], costs: Costs, loss: LossOf, seeds: Sequence[int]
) -> list[Passed]:
    """Plans within the bound, each cheaper than `least` and the one before it."""
    kinds: dict[Planned, list[tuple[float, Planned]]] = {}
    for plan in plans:
        kinds.setdefault(kind_of(plan), []).append((costs.share(plan), plan))
    passed: list[Passed] = []
    for kind in sorted(kinds, key=_sooner):
        for cost, plan in sorted(kinds[kind], key=lambda each: -each[0]):
            if cost >= least:
                continue
            losses = _losses(bound, plan, loss, seeds)
            if losses is None:
                break
            passed.append(Result(candidate=plan, cost=cost, errors=losses))
            least = cost
    return passed


def _sooner(kind: Planned) -> tuple[bool, bool, int]:
    """An order in which a cheap plan is known soon, so that few are drawn.

    Plain ones tell the samplers apart, a forecast is nearer at the same cost more often than not, and few calls cost
    little to draw.
    """
    return not is_plain(kind), kind.policy.forecast is None, kind.sampling.calls


def _adapting(
    bound: float,
    least: float,
    kinds: Sequence[Sequence[Candidate[Adaptive]]],
    costs: Costs,
    loss: LossOf,
    took: Took,
    seeds: Sequence[int],
) -> list[Passed]:
    """As `_passing`, of rules that decide at run time."""
    passed: list[Passed] = []
    for kind in kinds:
        # With as few full calls as the rule allows it is reuse at an interval of one more.
        floor = replace(UNCACHED, cache_interval=kind[0].policy.max_consecutive + 1, forecast=kind[0].policy.forecast)
        if costs.share(Candidate(sampling=kind[0].sampling, policy=floor)) >= least:
            continue
        for rule in kind:
            losses = _losses(bound, rule, loss, seeds)
            if losses is None:
                break  # a larger threshold is no nearer
            cost = statistics.mean(costs.of(rule, took(rule, seed)) for seed in seeds)
            if cost < least:
                passed.append(Result(candidate=rule, cost=cost, errors=losses))
                least = cost
    return passed


def _losses(bound: float, candidate: AnyCandidate, loss: LossOf, seeds: Sequence[int]) -> tuple[float, ...] | None:
    """Of every seed; None as soon as their mean is above the bound."""
    losses: tuple[float, ...] = ()
    for seed in seeds:
        losses = *losses, loss(candidate, seed)
        if statistics.mean(losses) > bound:
            return None
    return losses
