"""Fidelity beside speed: cached settings, and what plain diffusers draws in the same time with fewer steps.

Everything takes turns, seed by seed, and is compared with plain diffusers at all steps from the same noise. The rivals'
steps follow from a few rounds of timing before: as many as fit in a setting's time, of plain diffusers and of the same
engines without caching, which tells what caching gains apart from what compiling does.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from deepcache_trt.benchmarks.counting.pipeline_counts import macs_of
from deepcache_trt.benchmarks.fidelity.distances import finite
from deepcache_trt.benchmarks.fidelity.judges import Judges
from deepcache_trt.benchmarks.timing.drawing import Drawn, Pipes, Scene, draw
from deepcache_trt.models.taps import Variant
from deepcache_trt.runtime.policies import Policy, Uncached

PLAIN, ENGINES = "diffusers", "engines"
_UNCACHED = Uncached()

# Before the rivals' steps are known; the first call of each is not timed.
_TIMING_ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to draw.

    Attributes:
        name: for a person.
        system: `PLAIN` or `ENGINES`.
        steps: of denoising.
        policy: how it caches.
        rival_of: the settings in whose time it draws.
    """

    name: str
    system: str
    steps: int
    policy: Policy = _UNCACHED
    rival_of: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "policy": self.policy.to_json()}


@dataclass(frozen=True, kw_only=True)
class Row:
    """What became of a contender.

    Attributes:
        contender: which.
        macs_share: operations of its denoiser's calls over those of the reference's.
        samples: by figure, one value for each seed: "loop_seconds" and "seconds" of a call, the fidelity of its batch
            (None: infinite, nothing differs), "clip_score".
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
    """

    scene: Scene
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]
    absent: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """For JSON."""
        rows = [{**asdict(row), "contender": row.contender.record()} for row in self.rows]
        return {**asdict(self), "rows": rows}


def contenders(settings: Mapping[str, Policy], steps: int) -> list[Contender]:
    """The reference, the same on engines, and the settings by name."""
    return [
        Contender(name=_uncached_name(PLAIN, steps), system=PLAIN, steps=steps),
        Contender(name=_uncached_name(ENGINES, steps), system=ENGINES, steps=steps),
        *(Contender(name=name, system=ENGINES, steps=steps, policy=policy) for name, policy in settings.items()),
    ]


def _uncached_name(system: str, steps: int) -> str:
    return f"{system}, uncached, {steps} step{'' if steps == 1 else 's'}"


def rivals(first: Sequence[Contender], seconds: Mapping[str, Sequence[float]]) -> list[Contender]:
    """For each setting, uncached drawing with as many steps as fit in its time, at least one.

    Args:
        first: what `contenders` gives.
        seconds: of the denoising loop of each in every round, by name. Each round gives a ratio, so that a slow moment
            of the machine falls on both sides of it.
    """
    by_name: dict[str, Contender] = {}
    reference, uncached, *settings = first
    for setting in settings:
        for system, whole in ((PLAIN, reference), (ENGINES, uncached)):
            rounds = zip(seconds[setting.name], seconds[whole.name], strict=True)
            share = statistics.median(ours / theirs for ours, theirs in rounds)
            steps = max(1, math.floor(share * whole.steps))
            if steps >= whole.steps:  # no rival, but what is compared with anyway
                continue
            name = _uncached_name(system, steps)
            rival = by_name.get(name, Contender(name=name, system=system, steps=steps))
            by_name[name] = replace(rival, rival_of=(*rival.rival_of, setting.name))
    return list(by_name.values())


def evaluate(
    pipes: Pipes,
    settings: Mapping[str, Policy],
    scene: Scene,
    seeds: Sequence[int],
    judges: Judges,
    tell: Callable[[str], None],
) -> Evaluation:
    """Draw with everything in turn and judge it.

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
    everyone = [*first, *against]
    samples: dict[str, dict[str, list[float | None]]] = {contender.name: {} for contender in everyone}
    for number, seed in enumerate(seeds, start=1):
        tell(f"seed {number} of {len(seeds)}")
        reference: Drawn | None = None
        for contender in everyone:
            drawn = _draw(pipes, contender, scene, seed)
            reference = reference or drawn
            figures: dict[str, float | None] = {"loop_seconds": drawn.loop_seconds, "seconds": drawn.seconds}
            figures |= judges.judge(contender.name, seed, scene.prompts, reference, drawn)
            for figure, value in figures.items():
                samples[contender.name].setdefault(figure, []).append(value)
    verdict = judges.conclude()
    macs = {variants: macs_of(pipe) for variants, pipe in pipes.opened.items()}
    rows = [
        Row(
            contender=contender,
            macs_share=_macs(pipes, contender, macs) / _macs(pipes, first[0], macs),
            samples={figure: tuple(values) for figure, values in samples[contender.name].items()},
            scores=verdict.scores.get(contender.name, {}),
        )
        for contender in everyone
    ]
    return Evaluation(scene=scene, seeds=tuple(seeds), rows=tuple(rows), absent=verdict.absent, notes=verdict.notes)


def _draw(pipes: Pipes, contender: Contender, scene: Scene, seed: int) -> Drawn:
    pipe = pipes.cached(contender.policy) if contender.system == ENGINES else pipes.plain
    return draw(pipe, replace(scene, steps=contender.steps), seed)


def _macs(pipes: Pipes, contender: Contender, macs: Mapping[tuple[Variant, ...], Mapping[str, float]]) -> float:
    calls = macs[pipes.variants(contender.policy)]
    return sum(calls[variant] for variant in contender.policy.plan(contender.steps).variants)
