"""Decisions at run time: which variant runs next, from what the model was given and has answered so far.

A rule is a value and says when to stop reusing; a `Decider` follows it on static tensors beside the session's buffers,
so that it sees the same whether a pipeline's own loop asks call by call or the whole loop runs. It is a handful of
tensor operations that read no value on the host: on a GPU they can be recorded like everything else, and what is read
there is one number a call, the choice.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

# Where the norms of what the model was given and answered are too small to divide by.
_TINY = 1e-12

# Decisions that the device holds until the host reads them: those about a window of calls.
_KEPT = 64


class Seen(NamedTuple):
    """What a criterion judges by, for each member of the batch: [B] float32 each.

    Attributes:
        moved: the norms of the last three changes of the model's input, the newest first; 0 where there was none.
        answered: the norm of the last answer.
        answer_moved: that of its change against the answer before.
        input_moved: that of the change of the input that goes with it.
    """

    moved: "tuple[torch.Tensor, ...]"
    answered: "torch.Tensor"
    answer_moved: "torch.Tensor"
    input_moved: "torch.Tensor"


Criterion = Callable[[Seen], "torch.Tensor"]


def curvature(seen: Seen) -> "torch.Tensor":
    """How far the path of the inputs is from a steady pace: |(d₀ + d₂)/2 - d₁| / d₁ (AdaptiveDiffusion, equation 8).

    Infinite until there were three changes.
    """
    import torch

    newest, middle, oldest = seen.moved
    bent = ((newest + oldest) / 2 - middle).abs() / middle.clamp_min(_TINY)
    return torch.where(oldest > 0, bent, torch.inf)


def response(seen: Seen) -> "torch.Tensor":
    """The relative change that the answer is expected to have: its last rate of change times the input's change now.

    (EasyCache, equation 6.) Infinite until there were two answers.
    """
    import torch

    rate = seen.answer_moved / seen.input_moved.clamp_min(_TINY)
    expected = rate * seen.moved[0] / seen.answered.clamp_min(_TINY)
    return torch.where(seen.input_moved > 0, expected, torch.inf)


CRITERIA: Mapping[str, Criterion] = {"response": response, "curvature": curvature}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """When to compute everything again.

    Attributes:
        criterion: of `CRITERIA`: the error that a call adds where it reuses.
        threshold: the errors that may add up until a full call.
        skip_threshold: a call that adds no more than this, and fits, does not call the model at all; None: each does.
        max_consecutive: after so many calls that reuse, one is full.
        full: the variant that computes everything.
        cached: the one that reuses.
        skip: none at all.
    """

    criterion: str
    threshold: float
    skip_threshold: float | None
    max_consecutive: int
    full: str
    cached: str
    skip: str

    @property
    def choices(self) -> tuple[str, ...]:
        """The variants that may run, as a decider numbers them."""
        return (self.full, self.cached) if self.skip_threshold is None else (self.full, self.cached, self.skip)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What was decided about a call, and why.

    Attributes:
        variant: that ran.
        error: what the calls that reuse since the last full one, with this one, add up to: of the worst of a batch.
        why: in words.
    """

    variant: str
    error: float
    why: str


class Decider:
    """Follows a rule on the buffers of one shape."""

    def __init__(self, rule: Rule, given: "torch.Tensor", answer: "torch.Tensor") -> None:
        """Nothing is decided yet.

        Args:
            rule: to follow.
            given: the buffer of the model's input, [B, …].
            answer: that of its prediction, [B, …].
        """
        import torch

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.float32, device=given.device)

        members = len(given)
        self.rule = rule
        self._given, self._answer = given, answer
        self._last_given = torch.zeros_like(given)  # of the call before
        self._last_answered = torch.zeros_like(given), torch.zeros_like(answer)  # the last answer, and what it was to
        self._moved = zeros(3, members)
        self._answered = zeros(3, members)  # the last three of `Seen`
        self._answers = zeros(1)
        self._error = zeros(members)  # since the last full call
        self._reused = zeros(1)  # calls in a row
        self.choice = torch.zeros(1, dtype=torch.int32, device=given.device)  # the number of what runs next
        # Of the last decisions: the number of the choice, the error of the worst member, the calls in a row.
        self._told = zeros(_KEPT, 3)
        self._row = torch.zeros(1, dtype=torch.int64, device=given.device)  # for the next one
        self._read = 0  # decisions that the host has read

    def forget(self) -> None:
        """Nothing of one generation may reach another; what was not finite must not stay either."""
        kept = self._last_given, *self._last_answered, self._moved, self._answered, self._answers
        for tensor in (*kept, self._error, self._reused, self._row):
            tensor.zero_()
        self._read = 0

    def decide(self) -> None:
        """Leave in `choice` what the call runs whose input lies in the buffer, where the last answer lies in the other.

        It comes before every call but the first one, which is full.
        """
        import torch

        moved = _norms(self._given, self._last_given)
        self._last_given.copy_(self._given)
        self._moved.copy_(torch.stack([moved, self._moved[0], self._moved[1]]))
        adds = CRITERIA[self.rule.criterion](Seen(tuple(self._moved), *self._answered))
        error, reused = self._error + adds, self._reused + 1
        worst = error.max()
        is_full = ~(worst <= self.rule.threshold) | (reused > self.rule.max_consecutive)
        skips = torch.full_like(worst, -1.0 if self.rule.skip_threshold is None else self.rule.skip_threshold)
        choice = torch.where(is_full, 0.0, torch.where(adds.max() <= skips, 2.0, 1.0))
        self.choice.copy_(choice)
        self._told.index_copy_(0, self._row, torch.cat([choice, worst.expand(1), reused])[None])
        self._row.add_(1).remainder_(_KEPT)
        self._error.copy_(torch.where(is_full, 0.0, error))
        self._reused.copy_(torch.where(is_full, 0.0, reused))

    def note(self) -> None:
        """The model has answered: its input and its prediction lie in the buffers."""
        import torch

        given, answer = self._last_answered
        changes = torch.stack([_norms(self._answer, answer), _norms(self._given, given)])
        self._answered[0] = _norms(self._answer)
        self._answered[1:] = torch.where(self._answers > 0, changes, 0.0)
        self._last_given.copy_(self._given)
        given.copy_(self._given)
        answer.copy_(self._answer)
        self._answers.add_(1)

    def decisions(self, count: int) -> list[Decision]:
        """So many of the next ones that were not read."""
        assert count <= _KEPT, "older ones have given way"
        rows = self._told.tolist()
        numbers = range(self._read, self._read + count)
        self._read = numbers.stop
        return [self._decision(*rows[number % _KEPT]) for number in numbers]

    def _decision(self, choice: float, error: float, reused: float) -> Decision:
        rule = self.rule
        variant = rule.choices[int(choice)]
        if reused > rule.max_consecutive:
            why = f"{rule.max_consecutive} calls in a row have reused"
        elif not math.isfinite(error):
            why = "too little has been seen to tell, or it is not finite"
        elif variant == rule.full:
            why = f"the errors add up to {error:.3g}, above {rule.threshold:g}"
        elif variant == rule.cached:
            why = f"the errors add up to {error:.3g}, within {rule.threshold:g}"
        else:
            why = f"hardly anything moves, within {rule.skip_threshold:g}"
        return Decision(variant=variant, error=error, why=why)


def _norms(tensor: "torch.Tensor", other: "torch.Tensor | None" = None) -> "torch.Tensor":
    """[B]: of each member of a batch, or of how far it is from another."""
    difference = tensor.float() if other is None else tensor.float() - other.float()
    norms: torch.Tensor = difference.flatten(1).norm(dim=1)
    return norms
