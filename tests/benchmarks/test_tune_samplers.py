"""The search over samplers and counts of steps: on made-up errors, against all that there is."""

from collections.abc import Callable, Iterable

import pytest

from deepcache_trt.benchmarks.tune.candidates import (
    Candidate,
    Planned,
    Sampling,
    candidates,
    is_plain,
    uncached,
)
from deepcache_trt.benchmarks.tune.cheapest import Cheapest, cheapest
from deepcache_trt.benchmarks.tune.costs import Budget
from deepcache_trt.benchmarks.tune.search import Search, search
from deepcache_trt.errors import DeepCacheError
from deepcache_trt.runtime.plan import Plan
from deepcache_trt.runtime.policies import Adaptive, DeepCache
from deepcache_trt.samplers import Sampler
from tests.benchmarks.made_up import DDIM, HEUN, UNIPC, costs, quiet, sampling

ErrorOf = Callable[[Candidate[DeepCache | Adaptive], int], float]
BRANCHES = (0, 1)
SAMPLINGS = [sampling(steps, sampler) for sampler in (DDIM, UNIPC, HEUN) for steps in (24, 12, 6)]
COSTS = costs(24)
SHARES = {candidate: COSTS.share(candidate) for candidate in candidates(SAMPLINGS, BRANCHES)}


def errors(solving: dict[Sampler, float], caching: float) -> ErrorOf:
    """Made up: what a sampler gets wrong falls with its calls, and what a cache gets wrong is added to it."""

    def error(candidate: Candidate[DeepCache | Adaptive], seed: int) -> float:
        calls, policy = candidate.sampling.calls, candidate.policy
        of_solving = solving[candidate.sampling.sampler] / calls**2
        if isinstance(policy, Adaptive):
            return of_solving + 20 * caching * policy.threshold
        helped = (0.3 if policy.forecast else 1.0) * (2.0 if policy.skip_interval else 1.0)
        reused = calls / len(policy.plan(calls).full_steps) - 1
        of_caching = caching * reused**2 * helped * (1 - 0.1 * policy.cache_branch_id) / calls
        return (of_solving + of_caching) * (1 + 0.01 * (seed % 100)) * (1.05 if seed >= 100 else 1)

    return error


CACHING_IS_CHEAP = errors({DDIM: 100.0, UNIPC: 20.0, HEUN: 60.0}, 0.1)
CACHING_IS_DEAR = errors({DDIM: 10.0, UNIPC: 4.0, HEUN: 10.0}, 10.0)


def find(budget: float, error_of: ErrorOf, samplings: Iterable[Sampling] = SAMPLINGS) -> Search:
    return search(
        budget,
        samplings=[*samplings],
        branches=BRANCHES,
        costs=COSTS,
        error_of=error_of,
        seeds=range(3),
        tell=quiet,
    )


def best_of(budget: float, error_of: ErrorOf) -> Planned:
    affordable = [candidate for candidate, cost in SHARES.items() if cost <= budget]
    return min(affordable, key=lambda candidate: error_of(candidate, 0))


@pytest.mark.parametrize("budget", [0.1, 0.3, 0.42, 2.0])
@pytest.mark.parametrize("error_of", [CACHING_IS_CHEAP, CACHING_IS_DEAR], ids=["cheap", "dear"])
def test_the_best_of_all_samplers_and_policies_is_found(budget: float, error_of: ErrorOf) -> None:
    found, best = find(budget, error_of), best_of(budget, error_of)
    assert found.best.error == pytest.approx(1.01 * error_of(best, 0))
    assert found.best.cost <= budget
    considered, drawn = found.considered
    assert considered == len(SHARES) > 5 * drawn


def test_a_better_sampler_with_a_cache_wins_where_caching_costs_little() -> None:
    best = find(0.42, CACHING_IS_CHEAP).best.candidate
    assert best.caches
    assert best.sampling == sampling(24, UNIPC)


def test_fewer_steps_without_a_cache_win_where_caching_costs_much() -> None:
    found = find(0.5, CACHING_IS_DEAR)
    assert found.best.candidate == uncached(sampling(12, UNIPC))
    assert found.uncached_within == found.best


def test_every_uncached_run_is_told_the_reference_first() -> None:
    found = find(0.42, CACHING_IS_CHEAP)
    assert [one.candidate for one in found.uncached] == [uncached(each) for each in SAMPLINGS]
    assert found.uncached[0].cost == 1
    assert found.uncached_within is not None
    assert found.uncached_within.candidate == uncached(sampling(6, UNIPC))
    assert len({one.candidate.sampling for one in found.front}) > 1


def test_beyond_the_plain_ones_only_two_samplers_are_searched() -> None:
    drawn: set[Planned] = set()

    def counted(candidate: Planned, seed: int) -> float:
        drawn.add(candidate)
        return CACHING_IS_CHEAP(candidate, seed)

    found = find(0.42, counted)  # type: ignore[arg-type]
    searched = {one.sampling for one in drawn if not is_plain(one)}
    assert searched == {sampling(24, UNIPC), sampling(24, HEUN)}
    assert found.best.candidate.sampling in searched
    assert {one.sampling for one in drawn} == set(SAMPLINGS)


def test_a_budget_that_buys_nothing_plain_is_surveyed_too() -> None:
    """At 5 % of 24 calls there is one full call, and all others are left out."""
    found = find(0.05, CACHING_IS_CHEAP, SAMPLINGS[:6])
    assert found.best.candidate.policy.skip_interval == 1
    assert len(found.best.candidate.plan.full_steps) == 1


# For a fidelity.


def took(candidate: Candidate[Adaptive], seed: int) -> Plan:
    """Made up: the larger the threshold, the fewer full calls."""
    calls, policy = candidate.sampling.calls, candidate.policy
    full = max(-(-calls // (policy.max_consecutive + 1)), round(calls * (1 - 2 * policy.threshold)))
    return Plan(variants=("full",) * full + ("shallow",) * (calls - full))


def find_cheapest(bound: float, error_of: ErrorOf, samplings: Iterable[Sampling] = SAMPLINGS) -> Cheapest:
    return cheapest(
        bound,
        samplings=[*samplings],
        branches=BRANCHES,
        costs=COSTS,
        loss_of=error_of,
        took=took,
        seeds=range(3),
        unseen=lambda attempt: [100 * attempt, 100 * attempt + 1],
        tell=quiet,
    )


@pytest.mark.parametrize("bound", [0.03, 0.3])
@pytest.mark.parametrize("error_of", [CACHING_IS_CHEAP, CACHING_IS_DEAR], ids=["cheap", "dear"])
def test_the_cheapest_of_all_samplers_that_is_near_enough_is_found(bound: float, error_of: ErrorOf) -> None:
    found = find_cheapest(bound, error_of)
    near = [one for one in SHARES if (error_of(one, 100) + error_of(one, 101)) / 2 <= bound]
    assert found.best.cost <= min(SHARES[one] for one in near) + 1e-9  # a rule can be cheaper
    assert sum(found.checked) / 2 <= bound
    spent = [one.cost for one in found.passed]
    assert spent == sorted(spent, reverse=True)
    near_uncached = [one for one in near if not one.caches]
    assert found.uncached[0].cost == min(SHARES[one] for one in near_uncached)
    considered, drawn = found.considered
    assert drawn < considered / 2


def test_a_sampler_that_is_not_near_enough_uncached_is_drawn_once_only() -> None:
    drawn: dict[Sampling, set[Candidate[DeepCache | Adaptive]]] = {each: set() for each in SAMPLINGS}

    def counted(candidate: Candidate[DeepCache | Adaptive], seed: int) -> float:
        drawn[candidate.sampling].add(candidate)
        return CACHING_IS_CHEAP(candidate, seed)

    find_cheapest(0.1, counted)
    for each, found in drawn.items():
        near = CACHING_IS_CHEAP(uncached(each), 0) <= 0.1
        assert (len(found) > 1) == near, each.in_words


def test_no_sampler_that_is_near_enough_is_a_refusal_with_the_nearest() -> None:
    with pytest.raises(DeepCacheError, match=r"asked for was 0\.0001, and the nearest has 0\.0\d+; allow more"):
        find_cheapest(0.0001, CACHING_IS_CHEAP)


def test_an_uncached_run_can_be_the_fastest_that_is_near_enough() -> None:
    found = find_cheapest(0.05, CACHING_IS_DEAR, SAMPLINGS[:6])
    assert found.best.candidate == uncached(sampling(12, UNIPC))
    assert found.uncached[0].candidate == found.best.candidate


def test_a_budget_is_a_share_of_what_the_reference_costs() -> None:
    assert Budget(seconds=0.25).share(COSTS, 0.4) == 0.25
    assert Budget(speedup=4).share(COSTS, 0.4) == 0.25
    assert Budget(macs=0.3).share(COSTS, 0.4) == 0.3
    assert Budget().share(COSTS, 0.4) == 0.4
    assert [Budget(seconds=0.25).in_words, Budget(speedup=4).in_words, Budget(macs=0.3).in_words] == [
        "0.25 s an image",
        "4 times as fast",
        "",
    ]
    assert [each.by_clock for each in (Budget(), Budget(macs=1), Budget(speedup=1), Budget(seconds=1))] == [
        False,
        False,
        True,
        True,
    ]
