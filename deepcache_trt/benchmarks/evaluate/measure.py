"""Fidelity beside speed: cached settings, and what plain diffusers draws in the same time with fewer steps.

Everything takes turns, seed by seed, and is compared with plain diffusers at all steps from the same noise. The rivals'
steps follow from a few rounds of timing before: as many as fit in a setting's time, of plain diffusers and of the same
engines without caching, which tells what caching gains apart from what compiling does.

Of several samplers or counts of steps none is the reference: all approximate one solution, from which the distance is
taken, so that what a coarse sampler gets wrong and what a cache gets wrong are on one scale.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from deepcache_trt.benchmarks.counting.pipeline_counts import macs_of
from deepcache_trt.benchmarks.evaluate.contenders import ENGINES, Contender, contenders, grid, rivals
from deepcache_trt.benchmarks.fidelity.distances import finite, relative_error
from deepcache_trt.benchmarks.fidelity.judges import Judges
from deepcache_trt.benchmarks.timing.drawing import Drawn, Pipes, Scene, draw, solve
from deepcache_trt.runtime.plan import Plan
from deepcache_trt.runtime.policies import Policy, Uncached
from deepcache_trt.samplers import Sampler, finest, in_words

Tell = Callable[[str], None]

# Before the rivals' steps are known; the first call of each is not timed.
_TIMING_ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class Row:
    """What became of a contender.

    Attributes:
        contender: which.
        macs_share: operations of its denoiser's calls over those of the reference's.
        samples: by figure, one value for each seed: "loop_seconds" and "seconds" of a call, the fidelity of its batch
            (None: infinite, nothing differs), "clip_score", and "caching_error", that of the latents against those of
            the contender that differs only in that it caches nothing.
        scores: of all pictures together, see `judges.Verdict`.
    """

    contender: Contender
    macs_share: float
    samples: Mapping[str, tuple[float | None, ...]]
    scores: Mapping[str, float] = field(default_factory=dict)

    def median(self, figure: str) -> float | None:
        """Of a figure's samples; None where it is infinite, or where there are none."""
        values = [math.inf if value is None else value for value in self.samples.get(figure, ())]
        return finite(statistics.median(values)) if values else None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Everything that was found.

    Attributes:
        scene: what was drawn.
        seeds: from which noises.
        rows: the reference first.
        absent: figures that there are none of, with the reason and the cure.
        notes: what has to be known to read the figures.
        truth: the fine solve that all are compared with; "": the first row.
    """

    scene: Scene
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]
    absent: Mapping[str, str]
    notes: tuple[str, ...] = ()
    truth: str = ""

    def record(self) -> dict[str, Any]:
        """For JSON."""
        rows = [{**asdict(row), "contender": row.contender.record()} for row in self.rows]
        return {**asdict(self), "rows": rows}


def evaluate(
    pipes: Pipes,
    settings: Mapping[str, Policy],
    scene: Scene,
    seeds: Sequence[int],
    judges: Judges,
    tell: Tell,
) -> Evaluation:
    """Draw with everything in turn and judge it against plain diffusers at all steps.

    Args:
        pipes: of the model.
        settings: that are compared, by name.
        scene: what is drawn.
        seeds: at least one.
        judges: of the pictures.
        tell: called with a line about each round.
    """
    first = contenders(settings, scene.steps)
    tell("timing, to know how many steps the rivals have")
    loops = {contender.name: [_draw(pipes, contender, scene, seeds[0]).loop_seconds] for contender in first}
    for _ in range(_TIMING_ROUNDS):
        for contender in first:
            loops[contender.name].append(_draw(pipes, contender, scene, seeds[0]).loop_seconds)
    against = rivals(first, {name: times[1:] for name, times in loops.items()})
    for contender in against:
        _draw(pipes, contender, scene, seeds[0])
    return _take_turns(pipes, [*first, *against], scene, seeds, judges, tell, truth=None)


def evaluate_samplers(
    pipes: Pipes,
    settings: Mapping[str, Policy],
    samplers: Sequence[Sampler],
    steps: Sequence[int],
    scene: Scene,
    seeds: Sequence[int],
    judges: Judges,
    tell: Tell,
) -> Evaluation:
    """The same with each of several samplers and counts of steps, judged against the solution that all approximate.

    Args:
        pipes: as for `evaluate`, and what is not said here.
        settings: beside which all is drawn uncached.
        samplers: at least one.
        steps: of denoising, at least one count; those of the scene are not looked at.
        scene: what is drawn.
        seeds: at least one.
        judges: of the pictures.
        tell: called with a line about each round.
    """
    everyone = grid(settings, samplers, steps)
    tell(f"warming up {len(everyone)} contenders")
    for contender in everyone:
        _draw(pipes, contender, scene, seeds[0])
    scene = replace(scene, steps=max(steps))
    truth = in_words(*finest(pipes.own_scheduler))

    def solution(seed: int) -> Drawn:
        tell(f"the solution of seed {seed}: {truth}")
        return solve(pipes.cached(Uncached()), pipes.own_scheduler, scene, seed)

    return replace(_take_turns(pipes, everyone, scene, seeds, judges, tell, truth=solution), truth=truth)


def _take_turns(
    pipes: Pipes,
    everyone: Sequence[Contender],
    scene: Scene,
    seeds: Sequence[int],
    judges: Judges,
    tell: Tell,
    *,
    truth: Callable[[int], Drawn] | None,
) -> Evaluation:
    """Draw from every seed with everyone in turn; `truth` is what all are judged against, None: the first of them."""
    samples: dict[str, dict[str, list[float | None]]] = {contender.name: {} for contender in everyone}
    plans: dict[str, list[Plan]] = {contender.name: [] for contender in everyone}
    for number, seed in enumerate(seeds, start=1):
        tell(f"seed {number} of {len(seeds)}")
        reference = None if truth is None else truth(seed)
        uncached: dict[str, Drawn] = {}
        for contender in everyone:
            drawn = _draw(pipes, contender, scene, seed)
            plans[contender.name].append(drawn.plan or contender.policy.plan(contender.steps))
            reference = reference or drawn
            figures: dict[str, float | None] = {"loop_seconds": drawn.loop_seconds, "seconds": drawn.seconds}
            figures |= judges.judge(contender.name, seed, scene.prompts, reference, drawn)
            if contender.uncached:
                figures["caching_error"] = relative_error(uncached[contender.uncached].latents, drawn.latents)
            else:
                uncached[contender.name] = drawn
            for figure, value in figures.items():
                samples[contender.name].setdefault(figure, []).append(value)
    verdict = judges.conclude()
    macs = {variants: macs_of(pipe) for variants, pipe in pipes.opened.items()}
    cost = {each.name: _macs(macs[pipes.variants(each.policy)], plans[each.name]) for each in everyone}
    rows = [
        Row(
            contender=contender,
            macs_share=cost[contender.name] / cost[everyone[0].name],
            samples={figure: tuple(values) for figure, values in samples[contender.name].items()},
            scores=verdict.scores.get(contender.name, {}),
        )
        for contender in everyone
    ]
    return Evaluation(scene=scene, seeds=tuple(seeds), rows=tuple(rows), absent=verdict.absent, notes=verdict.notes)


def _draw(pipes: Pipes, contender: Contender, scene: Scene, seed: int) -> Drawn:
    pipe = pipes.cached(contender.policy) if contender.system == ENGINES else pipes.plain
    own = pipes.own_scheduler
    pipe.scheduler = own if contender.sampler is None else contender.sampler.scheduler(own)
    return draw(pipe, replace(scene, steps=contender.steps), seed)


def _macs(calls: Mapping[str, float], plans: Sequence[Plan]) -> float:
    """Of what ran, the mean over the drawings: what is decided at run time differs from one to the other."""
    return statistics.mean(sum(calls[variant] for variant in plan.variants) for plan in plans)
