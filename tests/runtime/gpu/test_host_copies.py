"""What a generation on a GPU waits for: nothing in the loop, and a stated handful before it, however many steps."""

from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler, PNDMScheduler

from deepcache_trt.pipelines import takeover
from deepcache_trt.runtime import buffers as buffers_module
from deepcache_trt.runtime import loop_state
from deepcache_trt.runtime.cuda_graph import Recorded
from deepcache_trt.runtime.guidance import Guidance
from deepcache_trt.runtime.loop_state import Known
from deepcache_trt.runtime.plan import FULL, Plan
from deepcache_trt.runtime.policies import Adaptive, Policy
from deepcache_trt.runtime.policies.deepcache import SHALLOW
from deepcache_trt.runtime.sampler.probe import state_key
from deepcache_trt.runtime.session import Session
from tests.runtime.gpu.pretend_cuda import pretended_gpu
from tests.runtime.small_model import PROFILE, Small, drawn, every, probed


class Launched:
    """Recorded graphs: what was run once is launched as one from then on."""

    recorded = Recorded(units=0, plans=0, seconds=0)

    def __init__(self, device: torch.device) -> None:
        self._units: set[Any] = set()

    def launch(self, units: Any) -> bool:
        if not set(units) <= self._units:
            return False
        for unit in units:
            unit()
        return True

    def record(self, units: Any) -> None:
        self._units |= set(units)

    def close(self) -> None: ...


class Event:
    """Of a GPU that is done at once."""

    def __init__(self, blocking: bool) -> None: ...

    def record(self) -> None: ...

    def query(self) -> bool:
        return True

    def synchronize(self) -> None: ...


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers_module, "CudaGraphs", Launched)
    monkeypatch.setattr("torch.cuda.Event", Event)
    monkeypatch.setattr(loop_state, "fused", lambda memory: partial(loop_state.advance, memory))


def counted(
    scheduler: Any,
    steps: int,
    *,
    seed_on: str = "cpu",
    known: bool = False,
    forecast: str | None = None,
    policy: Policy | None = None,
) -> Counter[str]:
    """Of the second generation of a shape, whose first call is not counted."""
    table, timesteps = probed(scheduler, steps)
    engines = {FULL: Small(cached=False), SHALLOW: Small(cached=True)}
    made = Session(engines, outputs=["noise_pred"], profiles=[PROFILE])
    plan: Plan = replace(every(3, len(timesteps)), forecast=forecast)
    plan = plan if policy is None else policy.plan(len(timesteps))
    with pretended_gpu() as counts:
        latents = torch.zeros(2, 4, 4, 4, device="cuda")
        there = timesteps.cuda()
        kept = None
        if known:
            scales = torch.rand(len(timesteps), 2).double().numpy()
            kept = Known(mask=latents[:, :1], latents=latents, noise=latents, scales=scales)
        for _ in range(2):
            generator = torch.Generator().manual_seed(0) if seed_on == "cpu" else None
            counts.clear()
            drawn(made, plan, table, there, Guidance(scale=5.0, rescale=0.7), latents, generator, known=kept)
    return counts


@pytest.mark.parametrize("scheduler", [DDIMScheduler, PNDMScheduler, EulerAncestralDiscreteScheduler])
@pytest.mark.parametrize("known", [False, True], ids=["made", "inpainted"])
@pytest.mark.parametrize("forecast", [None, "taylor1"])
def test_a_generation_waits_as_often_however_many_steps_it_has(
    scheduler: Any, known: bool, forecast: str | None
) -> None:
    short, long = (
        counted(scheduler(**_linear(scheduler)), steps, known=known, forecast=forecast) for steps in (10, 40)
    )
    of_window = {"to the host": 1, "from the host": 1}  # the timesteps, and the rows of coefficients
    waited = {name: count for name, count in short.items() if "without" not in name}
    assert waited == of_window
    assert {name: count for name, count in long.items() if "without" not in name} == of_window
    assert short["from the host, without waiting"] == (1 if scheduler is EulerAncestralDiscreteScheduler else 0)
    assert long["from the host, without waiting"] == short["from the host, without waiting"], "noise goes as one"
    assert long["to the host, without waiting"] <= 50 // 5 + 1, "progress is told every few steps"


def test_what_is_asked_before_a_loop_is_copied_once_each() -> None:
    scheduler: Any = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(50)
    with pretended_gpu() as counts:
        scheduler.timesteps = scheduler.timesteps.cuda()
        counts.clear()
        timesteps = takeover._timesteps_from(scheduler, scheduler.timesteps[0], 50)
        assert timesteps is not None
        state_key(scheduler, timesteps)
    assert counts == {"to the host": 3}  # the table of timesteps, the first one, and the table in the scheduler's state


def test_noise_that_is_drawn_on_the_gpu_stays_there() -> None:
    counts = counted(EulerAncestralDiscreteScheduler(), 20, seed_on="cuda")
    assert counts["from the host, without waiting"] == 0


@pytest.mark.parametrize("steps", [10, 40])
def test_a_rule_reads_one_number_a_call(steps: int) -> None:
    counts = counted(DDIMScheduler(clip_sample=False), steps, policy=Adaptive(threshold=0.3))
    waited = {name: count for name, count in counts.items() if "without" not in name}
    decided = steps - 1  # the first call is full anyway
    assert waited == {"to the host": 1, "from the host": 1, "waits for values": decided}


def _linear(scheduler: Any) -> dict[str, Any]:
    return {"clip_sample": False} if scheduler is DDIMScheduler else {}
