"""A whole search, on the engines of a model: for a budget or a fidelity, and checked on seeds of its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from deepcache_trt.benchmarks.timing.drawing import Drawn, Pipes, Scene, solve
from deepcache_trt.benchmarks.tune.candidates import DEFAULT, UNCACHED, AnyCandidate, Candidate, Sampling
from deepcache_trt.benchmarks.tune.cheapest import Cheapest, cheapest
from deepcache_trt.benchmarks.tune.costs import Budget, Costs
from deepcache_trt.benchmarks.tune.draws import Checked, Drawer, check_converges, sampling_of
from deepcache_trt.benchmarks.tune.measures import ERROR, Goal, Measure
from deepcache_trt.benchmarks.tune.search import Search, Tell, search
from deepcache_trt.samplers import Sampler, finest, in_words

# Candidates that are checked, by the names of their rows.
REFERENCE, CHOSEN = "uncached", "chosen"

# Seeds of the search count up from 0, those of its first check from here, of the next one from twice that.
_UNSEEN = 1000


@dataclass(frozen=True, kw_only=True)
class Space:
    """What is searched.

    Attributes:
        samplers: at least one; that of the reference is the first, with the most steps.
        steps: of denoising, at least one count.
        branches: the cheapest first.
        solved: measure against what all samplers approximate, and not against the reference.
    """

    samplers: tuple[Sampler, ...]
    steps: tuple[int, ...]
    branches: tuple[int, ...]
    solved: bool


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What was found, and what it was like on seeds that nothing was chosen by.

    Attributes:
        found: for a budget or for a goal.
        asked: which, in words.
        costs: of calls.
        checked: the reference first, the chosen one last.
        measure: of the errors that were checked.
        truth: what they were taken from; "": the reference.
        images: in a batch.
    """

    found: Search | Cheapest
    asked: str
    costs: Costs
    checked: Mapping[str, Checked]
    measure: Measure
    truth: str
    images: int

    @property
    def chosen(self) -> AnyCandidate:
        """What to draw with."""
        return self.found.best.candidate


def tune(
    pipes: Pipes, space: Space, scene: Scene, asked: Budget | Goal, *, seeds: int, unseen: int, tell: Tell
) -> Tuned:
    """Search, and check what was found.

    Args:
        pipes: of the model.
        space: what is searched.
        scene: what is drawn; its steps are not looked at.
        asked: what for.
        seeds: that candidates are chosen by.
        unseen: further ones, that the chosen one is checked on.
        tell: called with a line about each stage.

    Raises:
        DeepCacheError: a sampler that cannot be compared, or nothing is cheap or near enough.
    """
    measure = asked.measure if isinstance(asked, Goal) else ERROR
    samplings = _samplings(pipes, space, scene)
    reference, solution = samplings[0], _solution(pipes, scene, measure, tell) if space.solved else None
    drawer = Drawer(pipes, scene, space.branches, reference, measure=measure, truth=solution)
    by_clock = isinstance(asked, Goal) or asked.by_clock
    tell("timing calls" if by_clock else "counting operations")
    costs = drawer.time_calls() if by_clock else drawer.count_macs()
    default = Candidate(sampling=reference, policy=DEFAULT)
    found: Search | Cheapest
    if isinstance(asked, Goal):
        found = cheapest(
            measure.loss(asked.value),
            samplings=samplings,
            branches=space.branches,
            costs=costs,
            loss_of=drawer.loss,
            took=drawer.took,
            seeds=range(seeds),
            unseen=lambda attempt: _fresh(attempt, unseen),
            tell=tell,
            truth=None if space.solved else drawer.reference,
        )
        words, attempt = str(asked), found.attempts
    else:
        found = search(
            asked.share(costs, costs.share(default)),
            samplings=samplings,
            branches=space.branches,
            costs=costs,
            error_of=drawer.error,
            seeds=range(seeds),
            tell=tell,
        )
        share = f"{found.budget:.1%} of the uncached {costs.unit}"
        words, attempt = f"{asked.in_words}, {share}" if asked.by_clock else share, 1
    tell("checking what was found beside the others, in turn")
    rivals = _rivals(found, solved=space.solved)
    rows = {REFERENCE: drawer.reference, "default": default, **rivals, CHOSEN: found.best.candidate}
    return Tuned(
        found=found,
        asked=words,
        costs=costs,
        checked=drawer.check(rows, costs, _fresh(attempt, unseen)),
        measure=measure,
        truth=_truth(pipes) if space.solved else "",
        images=len(scene.prompts),
    )


def _samplings(pipes: Pipes, space: Space, scene: Scene) -> list[Sampling]:
    """All of them, the reference's first."""
    if space.solved:
        for sampler in space.samplers:
            check_converges(sampler, pipes)
    counts = sorted(space.steps, reverse=True)
    return [sampling_of(pipes, scene, sampler, steps) for sampler in space.samplers for steps in counts]


def _truth(pipes: Pipes) -> str:
    return in_words(*finest(pipes.own_scheduler))


def _solution(pipes: Pipes, scene: Scene, measure: Measure, tell: Tell) -> Callable[[int], Drawn]:
    """What all samplers approximate, by the seed."""

    def solution(seed: int) -> Drawn:
        tell(f"the solution of seed {seed}: {_truth(pipes)}")
        return solve(pipes.cached(UNCACHED), pipes.own_scheduler, scene, seed, decode=measure.decodes)

    return solution


def _fresh(attempt: int, count: int) -> range:
    return range(attempt * _UNSEEN, attempt * _UNSEEN + count)


def _rivals(found: Search | Cheapest, *, solved: bool) -> dict[str, AnyCandidate]:
    """What a user would draw with otherwise, by the names of their rows."""
    rivals: dict[str, AnyCandidate] = {}
    if isinstance(found, Cheapest):
        if found.uncached:
            rivals["uncached and near enough"] = found.uncached[0].candidate
        return rivals
    if solved and found.uncached_within is not None:
        rivals["uncached within the budget"] = found.uncached_within.candidate
    if found.reuse_within is not None:
        rivals["plain reuse within the budget"] = found.reuse_within.candidate
    return rivals
