"""Decisions: a rule is followed on static tensors exactly as plain Python follows it on numbers."""

import math
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch

from deepcache_trt.runtime.decision import CRITERIA, Decider, Decision, Rule
from deepcache_trt.runtime.plan import SKIP

SHAPE = (3, 2, 4)  # three members of a batch


def rule(criterion: str, threshold: float, *, skip: float | None = None, in_a_row: int = 4) -> Rule:
    return Rule(
        criterion=criterion,
        threshold=threshold,
        skip_threshold=skip,
        max_consecutive=in_a_row,
        full="full",
        cached="shallow",
        skip=SKIP,
    )


class Numbers:
    """The same rule in plain Python, on lists of what was given and answered."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.given: list[torch.Tensor] = []
        self.answers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.error = [0.0] * SHAPE[0]
        self.reused = 0

    def decide(self, given: torch.Tensor) -> str:
        self.given.append(given)
        adds = [self._adds(member) for member in range(SHAPE[0])]
        error = [before + more for before, more in zip(self.error, adds, strict=True)]
        if max(error) > self.rule.threshold or self.reused + 1 > self.rule.max_consecutive:
            self.error, self.reused = [0.0] * SHAPE[0], 0
            return "full"
        self.error, self.reused = error, self.reused + 1
        return SKIP if self.rule.skip_threshold is not None and max(adds) <= self.rule.skip_threshold else "shallow"

    def note(self, given: torch.Tensor, answer: torch.Tensor) -> None:
        if not self.given:
            self.given.append(given)
        self.answers.append((given, answer))

    def _adds(self, member: int) -> float:
        given = [each[member] for each in self.given]
        moved = [float((b - a).norm()) for a, b in pairwise(given)]
        if self.rule.criterion == "curvature":
            return abs((moved[-1] + moved[-3]) / 2 - moved[-2]) / moved[-2] if len(moved) > 2 else math.inf
        if len(self.answers) < 2:
            return math.inf
        (given_before, before), (given_now, now) = self.answers[-2:]
        rate = float((now - before)[member].norm()) / float((given_now - given_before)[member].norm())
        return rate * moved[-1] / float(now[member].norm())


def inputs(calls: int, *, wildness: float) -> Iterator[torch.Tensor]:
    """A path whose members move at paces of their own, more or less steadily."""
    generator = torch.Generator().manual_seed(calls)
    at = torch.randn(SHAPE, generator=generator)
    direction = torch.randn(SHAPE, generator=generator)
    for _ in range(calls):
        yield at.clone()
        at += direction * (1 + wildness * torch.rand(SHAPE[0], 1, 1, generator=generator)) * 0.1


def model(given: torch.Tensor) -> torch.Tensor:
    return (2 * given).tanh() + 0.5


def followed(decider: Decider, given: torch.Tensor, answer: torch.Tensor, path: list[torch.Tensor]) -> list[Decision]:
    decider.forget()
    decisions = []
    for call, at in enumerate(path):
        given.copy_(at)
        if call:
            decider.decide()
            decisions += decider.decisions(1)
        if not call or decisions[-1].variant != SKIP:
            answer.copy_(model(at))
            decider.note()
    return decisions


@pytest.mark.parametrize("in_a_row", [1, 3, 50])
@pytest.mark.parametrize("skip", [None, 0.02])
@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.3, 5.0])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_what_is_decided_is_what_plain_python_decides(
    criterion: str, threshold: float, skip: float | None, in_a_row: int
) -> None:
    chosen = rule(criterion, threshold, skip=skip, in_a_row=in_a_row)
    given, answer, numbers = torch.zeros(SHAPE), torch.zeros(SHAPE), Numbers(chosen)
    path = [*inputs(25, wildness=0.4)]
    decided = [decision.variant for decision in followed(Decider(chosen, given, answer), given, answer, path)]
    numbers.note(path[0], model(path[0]))
    expected = []
    for at in path[1:]:
        expected.append(numbers.decide(at))
        if expected[-1] != SKIP:
            numbers.note(at, model(at))
    assert decided == expected
    assert "full" in decided
    assert threshold < 0.3 or len({*decided}) > 1


def test_a_threshold_of_nothing_reuses_nothing_and_a_large_one_as_often_as_may_be_in_a_row() -> None:
    given, answer = torch.zeros(SHAPE), torch.zeros(SHAPE)
    path = [*inputs(12, wildness=0.4)]
    never = followed(Decider(rule("response", 0.0), given, answer), given, answer, path)
    assert {decision.variant for decision in never} == {"full"}
    often = followed(Decider(rule("response", 1e9, in_a_row=2), given, answer), given, answer, path)
    assert [decision.variant for decision in often] == ["full", *["shallow", "shallow", "full"] * 3, "shallow"]
    assert often[3].why == "2 calls in a row have reused"


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_worst_member_of_a_batch_decides(criterion: str) -> None:
    chosen = rule(criterion, 0.1)
    given, answer = torch.zeros(SHAPE), torch.zeros(SHAPE)
    path = [*inputs(20, wildness=0.0)]
    calm = followed(Decider(chosen, given, answer), given, answer, path)
    generator = torch.Generator().manual_seed(1)
    for at in path:
        at[1] += torch.randn(SHAPE[1:], generator=generator)
    wild = followed(Decider(chosen, given, answer), given, answer, path)
    assert sum(each.variant == "full" for each in wild) > sum(each.variant == "full" for each in calm)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_nothing_of_a_generation_reaches_the_next_not_even_what_was_not_finite(criterion: str) -> None:
    given, answer = torch.zeros(SHAPE), torch.zeros(SHAPE)
    decider = Decider(rule(criterion, 0.1), given, answer)
    path = [*inputs(10, wildness=0.4)]
    first = followed(decider, given, answer, path)
    followed(decider, given, answer, [at * torch.nan for at in path])
    assert followed(decider, given, answer, path) == first


def test_what_is_not_finite_is_computed_in_full() -> None:
    given, answer = torch.zeros(SHAPE), torch.zeros(SHAPE)
    path = [*inputs(10, wildness=0.0)]
    path[6] = path[6] * torch.nan
    decided = followed(Decider(rule("response", 100.0, in_a_row=50), given, answer), given, answer, path)
    assert decided[5].variant == "full"


def test_why_is_said_in_words() -> None:
    given, answer = torch.zeros(SHAPE), torch.zeros(SHAPE)
    path = [*inputs(20, wildness=0.0)]
    decided = followed(Decider(rule("response", 0.2, skip=0.04, in_a_row=9), given, answer), given, answer, path)
    assert decided[0].why == "too little has been seen to tell, or it is not finite"
    said = {decision.variant: decision.why for decision in decided[1:]}
    assert said["full"].startswith("the errors add up to 0.2")
    assert said["full"].endswith(", above 0.2")
    assert said.keys() >= {"full", SKIP}
    assert said[SKIP] == "hardly anything moves, within 0.04"
