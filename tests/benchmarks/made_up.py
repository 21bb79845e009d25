"""Samplers and costs for searches that draw nothing."""

from deepcache_trt.benchmarks.tune.candidates import Sampling
from deepcache_trt.benchmarks.tune.costs import Costs
from deepcache_trt.samplers import Sampler

DDIM, UNIPC, HEUN = (Sampler(class_name=f"{name}Scheduler") for name in ("DDIM", "UniPCMultistep", "HeunDiscrete"))


def sampling(steps: int, sampler: Sampler = DDIM) -> Sampling:
    """With as many calls as the real one makes."""
    return Sampling(sampler=sampler, steps=steps, calls=2 * steps - 1 if sampler == HEUN else steps)


def costs(reference_calls: int, *, unit: str = "MACs", forecasting: float = 0.0) -> Costs:
    """A shallow call is the dearer, the higher the branch; a forecast costs something of its own."""
    return Costs(
        unit=unit,
        whole=1.0,
        reference_calls=reference_calls,
        calls={
            (branch, forecast): {
                "full": 1.0,
                "shallow": 0.1 + 0.2 * branch + forecasting * forecast,
                "skip": forecasting * forecast,
            }
            for branch in (0, 1)
            for forecast in (False, True)
        },
    )


def quiet(line: str) -> None:
    """Nobody reads it."""
