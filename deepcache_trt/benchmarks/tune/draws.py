"""What the search for a plan needs of the engines: what calls cost, and what a candidate draws."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from deepcache_trt.benchmarks.counting.pipeline_counts import macs_of
from deepcache_trt.benchmarks.timing.drawing import Drawn, Pipes, Scene, draw
from deepcache_trt.benchmarks.tune.measures import ERROR, Measure
from deepcache_trt.benchmarks.tune.search import FORECASTS, MACS, SECONDS, UNCACHED, Costs
from deepcache_trt.runtime.plan import FULL, SKIP, Plan
from deepcache_trt.runtime.policies import Adaptive
from deepcache_trt.runtime.policies.deepcache import SHALLOW, DeepCache

_TIMING_ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A plan on seeds that nothing was chosen by.

    Attributes:
        policy: the plan.
        cost: over that of the uncached image.
        errors: its figure against the uncached batch, for each seed: by default the relative error of the latents.
        loop_seconds: of denoising a batch, for each seed, all plans in turn.
    """

    policy: DeepCache | Adaptive
    cost: float
    errors: tuple[float, ...]
    loop_seconds: tuple[float, ...]


class Drawer:
    """Draws candidates on the engines of their variants, and compares them with the uncached latents."""

    def __init__(self, pipes: Pipes, scene: Scene, branches: Sequence[int], measure: Measure = ERROR) -> None:
        """Take over loaded pipelines.

        Args:
            pipes: of the model.
            scene: what is drawn.
            branches: of the candidates, the cheapest first.
            measure: by which they are compared with the uncached batch.
        """
        self._pipes, self._scene, self._branches, self._measure = pipes, scene, branches, measure
        self._uncached: dict[int, Drawn] = {}
        self._took: dict[tuple[DeepCache | Adaptive, int], Plan] = {}

    def draw(self, policy: DeepCache | Adaptive, seed: int) -> Drawn:
        """One batch."""
        pipe = self._pipes.cached(policy)
        drawn = draw(pipe, self._scene, seed, decode=self._measure.decodes)
        self._took[policy, seed] = pipe.last_run.plan
        return drawn

    def took(self, policy: DeepCache | Adaptive, seed: int) -> Plan:
        """The calls of a batch that was drawn."""
        return self._took[policy, seed]

    def error(self, policy: DeepCache | Adaptive, seed: int) -> float:
        """See `Checked.errors`."""
        return self._measure.of(self._reference(seed), self.draw(policy, seed))

    def loss(self, policy: DeepCache | Adaptive, seed: int) -> float:
        """The same so that less is better."""
        return self._measure.loss(self.error(policy, seed))

    def _reference(self, seed: int) -> Drawn:
        if seed not in self._uncached:
            self._uncached[seed] = self.draw(UNCACHED, seed)
        return self._uncached[seed]

    def check(
        self, plans: Mapping[str, DeepCache | Adaptive], costs: Costs, seeds: Sequence[int]
    ) -> dict[str, Checked]:
        """Draw plans in turn from seeds of their own; one round before is not timed."""
        for policy in plans.values():
            self.draw(policy, seeds[0])
        errors: dict[str, list[float]] = {name: [] for name in plans}
        seconds: dict[str, list[float]] = {name: [] for name in plans}
        for seed in seeds:
            uncached = self._reference(seed)
            for name, policy in plans.items():
                drawn = self.draw(policy, seed)
                errors[name].append(self._measure.of(uncached, drawn))
                seconds[name].append(drawn.loop_seconds)
        return {
            name: Checked(
                policy=policy,
                cost=statistics.mean(costs.of(policy, self.took(policy, seed)) for seed in seeds),
                errors=tuple(errors[name]),
                loop_seconds=tuple(seconds[name]),
            )
            for name, policy in plans.items()
        }

    def count_macs(self) -> Costs:
        """What calls cost in operations; forecasts and skipped calls are free."""
        macs = {}
        for branch in self._branches:
            policy = DeepCache(cache_interval=self._scene.steps, cache_branch_id=branch)
            self.draw(policy, 0)
            macs[branch] = macs_of(self._pipes.cached(policy))
        full = next(iter(macs.values()))[FULL]
        calls = {
            branch: {variant: count / full for variant, count in by_variant.items()}
            for branch, by_variant in macs.items()
        }
        return Costs(
            unit=MACS,
            whole=full * self._scene.steps / len(self._scene.prompts),
            calls={(branch, forecast): calls[branch] for branch in calls for forecast in (False, True)},
        )

    def time_calls(self) -> Costs:
        """What calls take, their share of everything else in the loop included: medians, all kinds in turn."""
        steps = self._scene.steps
        seconds: dict[tuple[int, bool, str], list[float]] = {}
        for number, branch, forecast in product(range(_TIMING_ROUNDS + 1), self._branches, FORECASTS):
            few = DeepCache(cache_interval=steps, cache_branch_id=branch, forecast=forecast)
            ways = {FULL: replace(few, cache_interval=1), SHALLOW: few, SKIP: replace(few, skip_interval=1)}
            for variant, policy in ways.items():
                taken = self.draw(policy, 0).loop_seconds
                if number:  # the first one builds, and warms up
                    seconds.setdefault((branch, forecast is not None, variant), []).append(taken)
        loops = {key: statistics.median(taken) for key, taken in seconds.items()}
        full = min(loop for (_, _, variant), loop in loops.items() if variant == FULL) / steps
        calls: dict[tuple[int, bool], dict[str, float]] = {}
        for (branch, forecasts, variant), loop in loops.items():
            each = loop / steps if variant == FULL else (loop - full) / max(1, steps - 1)  # one call of those is full
            calls.setdefault((branch, forecasts), {})[variant] = max(0.0, each / full)
        return Costs(unit=SECONDS, whole=full * steps / len(self._scene.prompts), calls=calls)
