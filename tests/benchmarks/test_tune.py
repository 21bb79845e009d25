"""The search for a plan of one sampler: its parts, and what it finds, on made-up errors."""

from collections import Counter

import pytest

from deepcache_trt.benchmarks.tune.candidates import (
    DEFAULT,
    UNCACHED,
    Candidate,
    Planned,
    candidates,
    kind_of,
    uncached,
)
from deepcache_trt.benchmarks.tune.search import Result, Search, halve, pareto, search, within
from deepcache_trt.errors import DeepCacheError
from deepcache_trt.runtime.policies.deepcache import SHALLOW, DeepCache
from tests.benchmarks.made_up import HEUN, costs, quiet, sampling

STEPS = 20
ONE = sampling(STEPS)
COSTS = costs(STEPS)
EVERYTHING = candidates([ONE], (0, 1))


def of(policy: DeepCache) -> Planned:
    return Candidate(sampling=ONE, policy=policy)


def error_of(candidate: Planned, seed: int) -> float:
    """Made up: a long interval hurts, a forecast helps much and another branch a little; seeds differ."""
    policy = candidate.policy
    if policy == UNCACHED:
        return 0.0
    helped = 0.3 if policy.forecast else 1.0
    return (1 + 0.01 * seed) * policy.cache_interval**2 * helped * (1 - 0.1 * policy.cache_branch_id)


def result(cost: float, error: float) -> Result[DeepCache]:
    return Result(candidate=of(DEFAULT), cost=cost, errors=(error,))


def test_candidates_cover_every_choice_and_no_plan_is_there_twice() -> None:
    policies = [candidate.policy for candidate in EVERYTHING]
    plans = [
        (candidate.plan, candidate.policy.cache_branch_id if SHALLOW in candidate.plan.variants else 0)
        for candidate in EVERYTHING
    ]
    assert len(set(plans)) == len(plans) > 500
    assert DEFAULT in policies
    for field, least in {
        "cache_interval": 10,
        "skip_mode": 3,
        "skip_interval": 3,
        "forecast": 2,
        "cache_branch_id": 2,
    }.items():
        assert len({getattr(policy, field) for policy in policies}) >= least
    assert any(policy.disable_cache_before_step for policy in policies)
    assert any(policy.disable_cache_after_step for policy in policies)


def test_one_candidate_of_each_sampler_caches_nothing() -> None:
    samplings = [sampling(steps) for steps in (2, 3, 7)]
    everything = candidates(samplings, (0,))
    whole = [one for one in everything if len(one.plan.full_steps) == one.sampling.calls]
    assert whole == [uncached(each) for each in samplings]
    assert not any(one.caches for one in whole)


def test_candidates_that_a_schedule_cannot_have_are_left_out() -> None:
    for candidate in candidates([sampling(steps) for steps in (2, 3, 7)], (0,)):
        assert len(candidate.plan) == candidate.sampling.calls


def test_plans_are_of_the_calls_that_a_samplers_steps_make() -> None:
    heun = sampling(10, HEUN)
    found = candidates([heun], (0,))
    assert {len(candidate.plan) for candidate in found} == {19}
    assert {one.policy.disable_cache_after_step for one in found} == {None, 18, 17}
    assert COSTS.share(uncached(heun)) == pytest.approx(19 / 20)
    assert COSTS.share(Candidate(sampling=heun, policy=DeepCache(cache_interval=19))) == pytest.approx(2.8 / 20)


@pytest.mark.parametrize(
    ("policy", "share"),
    [
        (UNCACHED, 1.0),
        (DeepCache(cache_interval=4), (5 + 15 * 0.1) / 20),
        (DeepCache(cache_interval=4, cache_branch_id=1, forecast="taylor1"), (5 + 15 * 0.3) / 20),
        (DeepCache(cache_interval=4, skip_interval=1), 5 / 20),
        (DeepCache(cache_interval=20, disable_cache_after_step=18), (3 + 17 * 0.1) / 20),
    ],
)
def test_a_plan_costs_the_sum_of_its_calls(policy: DeepCache, share: float) -> None:
    assert COSTS.share(of(policy)) == pytest.approx(share)


def test_a_budget_buys_of_each_kind_the_shortest_interval() -> None:
    bought = within(0.42, EVERYTHING, COSTS)
    kinds: dict[Planned, dict[int, float]] = {}
    for plan in EVERYTHING:
        kinds.setdefault(kind_of(plan), {})[plan.policy.cache_interval] = COSTS.share(plan)
    assert Counter(map(kind_of, bought)).most_common(1)[0][1] == 1
    for plan in bought:
        by_interval = kinds[kind_of(plan)]
        assert by_interval[plan.policy.cache_interval] <= 0.42
        assert all(cost > 0.42 for interval, cost in by_interval.items() if interval < plan.policy.cache_interval)
    assert of(DEFAULT) in bought


def test_a_budget_that_buys_the_uncached_run_buys_nothing_else() -> None:
    assert within(1.0, EVERYTHING, COSTS) == [uncached(ONE)]


def test_a_budget_below_every_plan_is_refused_with_the_least() -> None:
    with pytest.raises(
        DeepCacheError, match=r"budget of 2.0% of the uncached MACs .* cheapest plan's 5.0%; .*--macs 0.05"
    ):
        within(0.02, EVERYTHING, COSTS)


def test_halving_draws_everyone_once_and_the_best_from_every_seed() -> None:
    drawn: list[tuple[Planned, int]] = []

    def counted(candidate: Planned, seed: int) -> float:
        drawn.append((candidate, seed))
        return error_of(candidate, seed)

    found = within(0.5, EVERYTHING, COSTS)
    left = halve(found, counted, range(4), quiet)
    rungs = Counter(seed for _, seed in drawn)
    assert rungs[0] == len(found) > 3 * rungs[2]
    assert rungs[0] > rungs[1] > rungs[2] == rungs[3] == len(left)
    assert len(set(drawn)) == len(drawn)
    assert [len(errors) for errors in left.values()] == [4] * len(left)
    assert next(iter(left)) == min(found, key=lambda candidate: error_of(candidate, 0))


def test_halving_with_a_single_seed_draws_everyone_once() -> None:
    found = within(0.5, EVERYTHING, COSTS)
    assert len(halve(found, error_of, [7], quiet)) == len(found)


def test_the_front_has_what_is_neither_dearer_nor_worse_than_another() -> None:
    best = [result(0.1, 5), result(0.2, 3), result(0.5, 1)]
    worse = [result(0.1, 6), result(0.3, 3), result(0.4, 4), result(0.9, 1)]
    assert pareto([*worse, *best]) == best


def find(budget: float) -> Search:
    return search(budget, samplings=[ONE], branches=(0, 1), costs=COSTS, error_of=error_of, seeds=range(3), tell=quiet)


def test_a_search_finds_the_best_that_the_budget_buys() -> None:
    found = find(0.42)
    affordable = [candidate for candidate in EVERYTHING if COSTS.share(candidate) <= 0.42]
    assert found.best.cost <= 0.42
    assert found.best.error == pytest.approx(1.01 * min(error_of(candidate, 0) for candidate in affordable))
    assert found.reuse_within is not None
    assert found.reuse_within.candidate == of(DEFAULT)
    assert found.uncached_within is None
    assert [one.candidate for one in found.uncached] == [uncached(ONE)]
    assert {one.candidate.policy.cache_interval for one in found.reuse} >= {2, 3, 4, 5, 6, 10}
    assert found.front == tuple(pareto(found.front))
    assert len(found.front) > 3
    considered, drawn = found.considered
    assert considered == len(EVERYTHING) > 5 * drawn


def test_whoever_can_pay_for_it_all_gets_the_uncached_run() -> None:
    found = find(1.2)
    assert found.best.candidate == uncached(ONE)
    assert found.best.error == 0
