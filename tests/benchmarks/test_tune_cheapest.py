"""The search for the fastest plan of a fidelity, of one sampler: on made-up losses."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from deepcache_trt.benchmarks.fidelity.distances import Comparisons
from deepcache_trt.benchmarks.timing.drawing import Drawn
from deepcache_trt.benchmarks.tune import measures
from deepcache_trt.benchmarks.tune.candidates import AnyCandidate, Candidate, candidates, uncached
from deepcache_trt.benchmarks.tune.cheapest import Cheapest, cheapest
from deepcache_trt.benchmarks.tune.measures import ERROR, Goal, measure_of
from deepcache_trt.errors import DeepCacheError
from deepcache_trt.runtime.plan import Plan
from deepcache_trt.runtime.policies import Adaptive
from tests.benchmarks.made_up import costs, quiet, sampling

STEPS = 20
ONE = sampling(STEPS)
ADAPTS_AT = 1e6  # times the threshold is the loss of a rule that decides at run time: none is near enough
COSTS = costs(STEPS, unit="seconds", forecasting=0.01)


def took(candidate: Candidate[Adaptive], seed: int) -> Plan:
    """Made up: the larger the threshold, the fewer full calls, as far as the rule allows."""
    least = STEPS // (candidate.policy.max_consecutive + 1)
    full = max(least, round(STEPS * (1 - 2 * candidate.policy.threshold)))
    return Plan(variants=("full",) * full + ("shallow",) * (STEPS - full))


def loss_of(candidate: AnyCandidate, seed: int) -> float:
    """Made up: the longer between full calls, the worse; seeds beyond the search's are worse by a tenth."""
    policy = candidate.policy
    if isinstance(policy, Adaptive):
        return ADAPTS_AT * policy.threshold
    full = len(candidate.plan.full_steps)
    helped = 0.3 if policy.forecast else 1.0
    skipped = 2.0 if policy.skip_interval else 1.0
    return (STEPS / full - 1) ** 2 * helped * skipped * (1 - 0.1 * policy.cache_branch_id) * (1.1 if seed >= 100 else 1)


def find(bound: float, **changes: object) -> Cheapest:
    arguments = {
        "samplings": [ONE],
        "branches": (0, 1),
        "costs": COSTS,
        "loss_of": loss_of,
        "took": took,
        "seeds": range(3),
        "unseen": lambda attempt: range(100 * attempt, 100 * attempt + 2),
        "tell": quiet,
        "truth": uncached(ONE),
    }
    return cheapest(bound, **{**arguments, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("bound", [0.2, 0.5, 1.1, 4.0])
def test_the_cheapest_that_is_near_enough_on_unseen_seeds_is_found_and_few_are_drawn(bound: float) -> None:
    found = find(bound)
    near = [one for one in candidates([ONE], (0, 1)) if loss_of(one, 100) <= bound]
    assert found.best.cost == pytest.approx(min(COSTS.share(one) for one in near))
    assert all(loss <= bound for loss in found.checked)
    spent = [result.cost for result in found.passed]
    assert spent == sorted(spent, reverse=True)
    considered, drawn = found.considered
    assert drawn < considered / 2


def test_a_rule_that_decides_at_run_time_is_taken_where_it_is_cheaper(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = find(0.5).best
    monkeypatch.setitem(globals(), "ADAPTS_AT", 0.5)
    found = find(0.5).best
    assert isinstance(found.candidate.policy, Adaptive)
    assert found.candidate.policy.threshold == 0.4, "the largest that is near enough"
    assert found.cost == pytest.approx(COSTS.of(found.candidate, took(found.candidate, 0)))  # type: ignore[arg-type]
    assert found.cost < fixed.cost
    monkeypatch.setitem(globals(), "ADAPTS_AT", 2.0)
    assert find(0.5).best == fixed, "those that are near enough compute more"


def test_a_rule_that_cannot_be_cheap_enough_is_not_drawn() -> None:
    """The cheapest plan that is near enough has two full calls of twenty; five in a row is one in six at least."""
    drawn: list[AnyCandidate] = []

    def counted(candidate: AnyCandidate, seed: int) -> float:
        drawn.append(candidate)
        return loss_of(candidate, seed)

    assert find(100.0, loss_of=counted).best.cost < 0.2
    assert not any(isinstance(candidate.policy, Adaptive) for candidate in drawn)


def test_what_is_near_enough_on_its_own_seeds_only_is_not_taken() -> None:
    """On those of the search the loss at every second call full is 0.3; on others it is 0.33."""
    assert find(0.33).attempts == 1
    found = find(0.31)
    assert found.attempts == 2
    assert found.best.cost > find(0.33).best.cost


def test_each_check_has_seeds_of_its_own_and_no_candidate_is_drawn_twice_from_one() -> None:
    drawn: list[tuple[AnyCandidate, int]] = []

    def counted(candidate: AnyCandidate, seed: int) -> float:
        drawn.append((candidate, seed))
        return loss_of(candidate, seed)

    found = find(0.31, loss_of=counted)
    assert max(Counter(drawn).values()) == 1
    assert {seed for _, seed in drawn if seed >= 100} == {100, 101, 200, 201}
    assert len({candidate for candidate, _ in drawn}) == found.considered[1]
    assert uncached(ONE) not in {candidate for candidate, _ in drawn}, "it is the truth"


def test_a_fidelity_that_nothing_has_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        DeepCacheError, match=r"none is near enough .* asked for was 0\.001, and the nearest has 0\.\d+;"
    ):
        find(0.001)


def test_seeds_that_disagree_without_end_are_given_up() -> None:
    endless = itertools.count(1)
    with pytest.raises(DeepCacheError, match="none is near enough on seeds that it was not chosen by"):
        find(1.0, loss_of=lambda candidate, seed: next(endless) if seed >= 100 else loss_of(candidate, seed))


# Figures.


def drawn(value: float) -> Drawn:
    pictures = np.full((1, 3, 8, 8), value, dtype=np.float32)
    return Drawn(latents=pictures, pictures=pictures, loop_seconds=1, seconds=1)


def test_less_loss_is_nearer_whatever_the_figure() -> None:
    for name in ("error", "psnr"):
        measure = measure_of(name)
        near, far = (measure.loss(measure.of(drawn(0.5), drawn(value))) for value in (0.51, 0.6))
        assert near < far
    psnr = measure_of("psnr")
    assert psnr.of(drawn(0.5), drawn(0.6)) == pytest.approx(20)
    assert psnr.in_words(math.inf) == "∞"
    assert [str(Goal(measure=each, value=value)) for each, value in ((ERROR, 0.05), (psnr, 40))] == [
        "error of at most 0.05",
        "PSNR of at least 40 dB",
    ]


def test_a_figure_that_cannot_be_had_is_refused_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "comparisons", lambda: Comparisons(functions={}, absent={"lpips": "no torchvision"}))
    with pytest.raises(DeepCacheError, match="no LPIPS: no torchvision; or ask for another figure, as --error"):
        measure_of("lpips")
