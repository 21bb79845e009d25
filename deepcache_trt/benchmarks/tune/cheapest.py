"""The search for the fastest plan that is near enough to the uncached picture.

Within a kind a longer interval is cheaper and no nearer, so kinds are gone through one by one, each from the most
faithful plan on that would be cheaper than the best so far; where that one is not near enough, nothing else of its kind
is drawn. What is chosen is checked on seeds that nothing was chosen by; where it is not near enough there, the search
asks for as much more as was missing. Rules that decide at run time are drawn too, by rising thresholds: what they cost
is what they took.
"""

import functools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deepcache_trt.benchmarks.tune.search import Costs, Result, adaptive_kinds, candidates, kind_of
from deepcache_trt.errors import DeepCacheError
from deepcache_trt.runtime.plan import Plan
from deepcache_trt.runtime.policies import Adaptive, DeepCache

LossOf = Callable[[DeepCache | Adaptive, int], float]

# So often more is asked for, before there is taken to be no such plan.
_ATTEMPTS = 8


@dataclass(frozen=True, kw_only=True)
class Cheapest:
    """What a search found.

    Attributes:
        best: the cheapest that is near enough, with its losses on the seeds of the search.
        checked: its losses on seeds that nothing was chosen by.
        passed: everything that was near enough on the seeds of the search, the dearest first.
        considered: how many candidates there were, and how many of them were drawn.
        attempts: how often a plan was checked on seeds of its own.
    """

    best: Result[DeepCache | Adaptive]
    checked: tuple[float, ...]
    passed: tuple[Result[DeepCache | Adaptive], ...]
    considered: tuple[int, int]
    attempts: int


def cheapest(
    bound: float,
    *,
    steps: int,
    branches: Sequence[int],
    costs: Costs,
    loss_of: LossOf,
    took: Callable[[Adaptive, int], Plan],
    seeds: Sequence[int],
    unseen: Callable[[int], Sequence[int]],
    tell: Callable[[str], None],
) -> Cheapest:
    """Find the cheapest plan whose mean loss is at most `bound`, on seeds that it was not chosen by too.

    Args:
        bound: of what `loss_of` gives, of which less is better.
        steps: of denoising.
        branches: that are considered.
        costs: of calls.
        loss_of: draws a candidate from a seed.
        took: the calls of such a drawing, where they were decided at run time.
        seeds: at least one.
        unseen: seeds for the check of each attempt, others each time.
        tell: called with a line about each stage.

    Raises:
        DeepCacheError: no plan that is cheaper than the uncached one is near enough.
    """
    everything = [plan for plan in candidates(steps, branches) if costs.share(plan, steps) < 1]
    adaptive = adaptive_kinds(branches[0])
    drawn: dict[DeepCache | Adaptive, float] = {}

    @functools.cache
    def loss(plan: DeepCache | Adaptive, seed: int) -> float:
        found = loss_of(plan, seed)
        drawn.setdefault(plan, found)
        return found

    asked = bound
    for attempt in range(1, _ATTEMPTS + 1):
        passed = _passing(asked, everything, costs, steps, loss, seeds)
        least = min((result.cost for result in passed), default=1.0)
        passed += _adapting(asked, least, adaptive, costs, loss, took, seeds)
        if not passed:
            break
        best, fresh = passed[-1], unseen(attempt)
        tell(f"{len(drawn)} candidates drawn; checking {best.policy.in_words} on seeds of its own")
        checked = tuple(loss_of(best.policy, seed) for seed in fresh)
        if statistics.mean(checked) <= bound:
            considered = len(everything) + sum(map(len, adaptive)), len(drawn)
            return Cheapest(best=best, checked=checked, passed=tuple(passed), considered=considered, attempts=attempt)
        asked = min(asked, best.error) - (statistics.mean(checked) - bound)
    raise DeepCacheError(
        f"of {len(everything)} plans and rules none is near enough on seeds that it was not chosen by: asked for was "
        f"{abs(bound):g}, and the nearest has {abs(min(drawn.values())):.4g}; allow more, or take more steps"
    )


def _passing(
    bound: float,
    plans: Sequence[DeepCache],
    costs: Costs,
    steps: int,
    loss: LossOf,
    seeds: Sequence[int],
) -> list[Result[DeepCache | Adaptive]]:
    """Plans within the bound, each cheaper than the one before it; the last one is the cheapest that was found."""
    kinds: dict[DeepCache, list[tuple[float, DeepCache]]] = {}
    for plan in plans:
        kinds.setdefault(kind_of(plan), []).append((costs.share(plan, steps), plan))
    passed: list[Result[DeepCache | Adaptive]] = []
    # A forecast is nearer at the same cost more often than not: the sooner a cheap plan is known, the fewer are drawn.
    for kind in sorted(kinds, key=lambda kind: kind.forecast is None):
        for cost, plan in sorted(kinds[kind], key=lambda each: -each[0]):
            if passed and cost >= passed[-1].cost:
                continue
            losses = _losses(bound, plan, loss, seeds)
            if losses is None:
                break
            passed.append(Result(policy=plan, cost=cost, errors=losses))
    return passed


def _adapting(
    bound: float,
    least: float,
    kinds: Sequence[Sequence[Adaptive]],
    costs: Costs,
    loss: LossOf,
    took: Callable[[Adaptive, int], Plan],
    seeds: Sequence[int],
) -> list[Result[DeepCache | Adaptive]]:
    """As `_passing`, of rules that decide at run time, each cheaper than `least` and the one before it."""
    passed: list[Result[DeepCache | Adaptive]] = []
    for kind in kinds:
        for policy in kind:
            losses = _losses(bound, policy, loss, seeds)
            if losses is None:
                break  # a larger threshold is no nearer
            cost = statistics.mean(costs.of(policy, took(policy, seed)) for seed in seeds)
            if cost < least:
                passed.append(Result(policy=policy, cost=cost, errors=losses))
                least = cost
    return passed


def _losses(bound: float, plan: DeepCache | Adaptive, loss: LossOf, seeds: Sequence[int]) -> tuple[float, ...] | None:
    """Of every seed; None as soon as their mean is above the bound."""
    losses: tuple[float, ...] = ()
    for seed in seeds:
        losses = *losses, loss(plan, seed)
        if statistics.mean(losses) > bound:
            return None
    return losses
