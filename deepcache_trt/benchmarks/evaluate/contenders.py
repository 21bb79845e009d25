"""Who is compared: cached settings, their rivals in the same time, and the same with other samplers and steps."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from deepcache_trt.runtime.policies import Policy, Uncached
from deepcache_trt.samplers import Sampler

PLAIN, ENGINES = "diffusers", "engines"
_UNCACHED = Uncached()


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to draw.

    Attributes:
        name: for a person.
        system: `PLAIN` or `ENGINES`.
        steps: of denoising.
        policy: how it caches.
        sampler: with which scheduler; None: the pipeline's own.
        rival_of: the settings in whose time it draws.
        uncached: the name of the contender that differs in nothing but that it caches nothing; "" where none is there.
    """

    name: str
    system: str
    steps: int
    policy: Policy = _UNCACHED
    sampler: Sampler | None = None
    rival_of: tuple[str, ...] = ()
    uncached: str = ""

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "policy": self.policy.to_json()}


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


def grid(settings: Mapping[str, Policy], samplers: Sequence[Sampler], steps: Sequence[int]) -> list[Contender]:
    """Every sampler with every count of steps, uncached and with each setting; before them plain diffusers.

    Args:
        settings: by name.
        samplers: the first one, with the most steps, is that of plain diffusers.
        steps: of denoising.
    """
    first, most = samplers[0], max(steps)
    name = f"diffusers, {first.name} {most}, uncached"
    found = [Contender(name=name, system=PLAIN, steps=most, sampler=first)]
    for sampler in samplers:
        for count in steps:
            uncached = f"{sampler.name} {count}, uncached"
            found.append(Contender(name=uncached, system=ENGINES, steps=count, sampler=sampler))
            found += [
                Contender(
                    name=f"{sampler.name} {count}, {name}",
                    system=ENGINES,
                    steps=count,
                    policy=policy,
                    sampler=sampler,
                    uncached=uncached,
                )
                for name, policy in settings.items()
            ]
    return found
