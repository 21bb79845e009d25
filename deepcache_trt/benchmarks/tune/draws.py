"""What the search for a plan needs of the engines: what calls cost, and what a candidate draws."""

import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from deepcache_trt.benchmarks.counting.pipeline_counts import macs_of
from deepcache_trt.benchmarks.fidelity.distances import relative_error
from deepcache_trt.benchmarks.timing.drawing import Drawn, Pipes, Scene, draw
from deepcache_trt.benchmarks.tune.candidates import (
    FORECASTS,
    UNCACHED,
    AnyCandidate,
    Candidate,
    Sampling,
    uncached,
)
from deepcache_trt.benchmarks.tune.costs import MACS, SECONDS, Costs
from deepcache_trt.benchmarks.tune.measures import ERROR, Measure
from deepcache_trt.errors import DeepCacheError
from deepcache_trt.runtime.plan import FULL, SKIP, Plan
from deepcache_trt.runtime.policies.deepcache import SHALLOW, DeepCache
from deepcache_trt.samplers import Sampler, draws_noise

_TIMING_ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A candidate on seeds that nothing was chosen by.

    Attributes:
        candidate: which.
        cost: over that of the reference.
        errors: its figure against the true batch, for each seed: by default the relative error of the latents.
        loop_seconds: of denoising a batch, for each seed, all candidates in turn.
        caching_errors: the relative error of the latents against those of its sampler's uncached run, for each seed;
            empty where that is the truth, or the candidate itself.
    """

    candidate: AnyCandidate
    cost: float
    errors: tuple[float, ...]
    loop_seconds: tuple[float, ...]
    caching_errors: tuple[float, ...] = ()


def sampling_of(pipes: Pipes, scene: Scene, sampler: Sampler, steps: int) -> Sampling:
    """A sampler with a count of steps, which draws once to see how often it calls the denoiser."""
    pipe = pipes.cached(UNCACHED)
    pipe.scheduler = sampler.scheduler(pipes.own_scheduler)
    drawn = draw(pipe, replace(scene, steps=steps), 0, decode=False)
    assert drawn.plan is not None, "engines tell what they ran"
    return Sampling(sampler=sampler, steps=steps, calls=len(drawn.plan))


def check_converges(sampler: Sampler, pipes: Pipes) -> None:
    """Refuse a sampler that has no solution.

    Raises:
        DeepCacheError: it draws noise at its steps.
    """
    if draws_noise(sampler.scheduler(pipes.own_scheduler)):
        raise DeepCacheError(
            f"{sampler.name} draws noise at its steps and leads to another picture each time, so nothing says how near "
            "it is; leave it out, or give another --scheduler, as ddim"
        )


class Drawer:
    """Draws candidates on the engines of their variants, and compares them with the truth of the same seed.

    Attributes:
        reference: the uncached run that costs and times are compared with.
    """

    def __init__(
        self,
        pipes: Pipes,
        scene: Scene,
        branches: Sequence[int],
        reference: Sampling,
        *,
        measure: Measure = ERROR,
        truth: Callable[[int], Drawn] | None = None,
    ) -> None:
        """Take over loaded pipelines.

        Args:
            pipes: of the model.
            scene: what is drawn; its steps are not looked at.
            branches: of the candidates, the cheapest first.
            reference: the sampler of the reference.
            measure: by which they are compared.
            truth: the batch of a seed that they are compared with; None: the reference's.
        """
        self.reference = uncached(reference)
        self._pipes, self._scene, self._branches, self._measure = pipes, scene, branches, measure
        self._is_reference_true = truth is None
        self._true = functools.cache(truth or functools.partial(self.draw, self.reference))
        self._took: dict[tuple[AnyCandidate, int], Plan] = {}

    def draw(self, candidate: AnyCandidate, seed: int) -> Drawn:
        """One batch."""
        pipe = self._pipes.cached(candidate.policy)
        pipe.scheduler = candidate.sampling.sampler.scheduler(self._pipes.own_scheduler)
        scene = replace(self._scene, steps=candidate.sampling.steps)
        drawn = draw(pipe, scene, seed, decode=self._measure.decodes)
        assert drawn.plan is not None, "engines tell what they ran"
        self._took[candidate, seed] = drawn.plan
        return drawn

    def took(self, candidate: AnyCandidate, seed: int) -> Plan:
        """The calls of a batch that was drawn."""
        return self._took[candidate, seed]

    def error(self, candidate: AnyCandidate, seed: int) -> float:
        """See `Checked.errors`."""
        return self._measure.of(self._true(seed), self.draw(candidate, seed))

    def loss(self, candidate: AnyCandidate, seed: int) -> float:
        """The same so that less is better."""
        return self._measure.loss(self.error(candidate, seed))

    def check(self, candidates: Mapping[str, AnyCandidate], costs: Costs, seeds: Sequence[int]) -> dict[str, Checked]:
        """Draw candidates in turn from seeds of their own; one round before is not timed."""
        for candidate in candidates.values():
            self.draw(candidate, seeds[0])
        errors: dict[str, list[float]] = {name: [] for name in candidates}
        caching: dict[str, list[float]] = {name: [] for name in candidates}
        seconds: dict[str, list[float]] = {name: [] for name in candidates}
        for seed in seeds:
            drawn = {name: self.draw(candidate, seed) for name, candidate in candidates.items()}
            whole = {each.sampling: drawn[name] for name, each in candidates.items() if each == uncached(each.sampling)}
            for name, candidate in candidates.items():
                errors[name].append(self._measure.of(self._true(seed), drawn[name]))
                seconds[name].append(drawn[name].loop_seconds)
                if candidate.caches and not self._is_reference_true:
                    if candidate.sampling not in whole:
                        whole[candidate.sampling] = self.draw(uncached(candidate.sampling), seed)
                    caching[name].append(relative_error(whole[candidate.sampling].latents, drawn[name].latents))
        return {
            name: Checked(
                candidate=candidate,
                cost=statistics.mean(costs.of(candidate, self.took(candidate, seed)) for seed in seeds),
                errors=tuple(errors[name]),
                loop_seconds=tuple(seconds[name]),
                caching_errors=tuple(caching[name]),
            )
            for name, candidate in candidates.items()
        }

    def count_macs(self) -> Costs:
        """What calls cost in operations; forecasts and skipped calls are free."""
        macs, calls = {}, self.reference.sampling.calls
        for branch in self._branches:
            policy = DeepCache(cache_interval=calls, cache_branch_id=branch)
            self._draw_reference(policy)
            macs[branch] = macs_of(self._pipes.cached(policy))
        full = next(iter(macs.values()))[FULL]
        shares = {
            branch: {variant: count / full for variant, count in by_variant.items()}
            for branch, by_variant in macs.items()
        }
        return Costs(
            unit=MACS,
            whole=full * calls / len(self._scene.prompts),
            reference_calls=calls,
            calls={(branch, forecast): shares[branch] for branch in shares for forecast in (False, True)},
        )

    def time_calls(self) -> Costs:
        """What calls take, their share of everything else in the loop included: all kinds in turn.

        Medians of the rounds' ratios: a slow moment of the machine falls on both sides of one.
        """
        calls = self.reference.sampling.calls
        seconds: dict[tuple[int, bool, str], list[float]] = {}
        for number, branch, forecast in product(range(_TIMING_ROUNDS + 1), self._branches, FORECASTS):
            few = DeepCache(cache_interval=calls, cache_branch_id=branch, forecast=forecast)
            ways = {FULL: replace(few, cache_interval=1), SHALLOW: few, SKIP: replace(few, skip_interval=1)}
            for variant, policy in ways.items():
                taken = self._draw_reference(policy).loop_seconds
                if number:  # the first one builds, and warms up
                    seconds.setdefault((branch, forecast is not None, variant), []).append(taken)
        whole = seconds[self._branches[0], False, FULL]
        shares: dict[tuple[int, bool], dict[str, float]] = {}
        for (branch, forecasts, variant), loops in seconds.items():
            share = statistics.median(ours / theirs for ours, theirs in zip(loops, whole, strict=True))
            if variant != FULL:
                share = (share * calls - 1) / max(1, calls - 1)  # one call of those is full
            shares.setdefault((branch, forecasts), {})[variant] = max(0.0, share)
        image = statistics.median(whole) / len(self._scene.prompts)
        return Costs(unit=SECONDS, whole=image, reference_calls=calls, calls=shares)

    def _draw_reference(self, policy: DeepCache) -> Drawn:
        """With the reference's sampler, but another policy."""
        return self.draw(Candidate(sampling=self.reference.sampling, policy=policy), 0)
