"""What a generation on a GPU waits for: nothing in the loop, and a stated handful before it, however many steps."""

import ctypes
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    PNDMScheduler,
)

from deepcache_trt.pipelines import takeover
from deepcache_trt.runtime import buffers as buffers_module
from deepcache_trt.runtime import loop_state
from deepcache_trt.runtime.cuda_graph import Recorded
from deepcache_trt.runtime.decision import Decision
from deepcache_trt.runtime.guidance import Guidance
from deepcache_trt.runtime.loop_state import WINDOW, Known
from deepcache_trt.runtime.plan import FULL, Plan
from deepcache_trt.runtime.policies import Adaptive, Policy
from deepcache_trt.runtime.policies.deepcache import SHALLOW
from deepcache_trt.runtime.sampler.probe import state_key
from deepcache_trt.runtime.session import Session
from deepcache_trt.runtime.switch import Step, Switch, units_of
from tests.runtime.gpu.pretend_cuda import pretended_gpu
from tests.runtime.small_model import PROFILE, Small, drawn, every, probed, starting


class Launched:
    """Recorded graphs: what was run once is launched as one from then on, its switches included if CUDA has them."""

    recorded = Recorded(units=0, plans=0, seconds=0)
    has_switches = True

    def __init__(self, device: torch.device) -> None:
        self._units: set[Any] = set()

    def launch(self, steps: Sequence[Step]) -> bool:
        has_switch = any(isinstance(step, Switch) for step in steps)
        if not set(units_of(steps)) <= self._units or (has_switch and not self.has_switches):
            return False
        for step in steps:
            if isinstance(step, Switch):
                for unit in step.branches[ctypes.c_int32.from_address(step.address).value]:
                    unit()
            else:
                step()
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
        latents = starting().cuda()
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


# From here on the counts of a rule, which decides about all calls but the first.
RULES = [Adaptive(threshold=0.3), Adaptive(threshold=0.3, forecast="taylor1")]


@pytest.mark.parametrize("policy", RULES, ids=["reused", "forecast"])
@pytest.mark.parametrize("steps", [10, 40])
def test_a_rule_that_the_gpu_follows_is_asked_once_for_all_that_it_decided(steps: int, policy: Policy) -> None:
    counts = counted(DDIMScheduler(clip_sample=False), steps, policy=policy)
    waited = {name: count for name, count in counts.items() if "without" not in name}
    assert waited == {"to the host": 1, "from the host": 1, "waits for values": 1}


@pytest.mark.parametrize("policy", RULES, ids=["reused", "forecast"])
@pytest.mark.parametrize("steps", [10, 40])
def test_a_rule_that_it_cannot_follow_is_asked_once_a_call(
    steps: int, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Launched, "has_switches", False)
    counts = counted(DDIMScheduler(clip_sample=False), steps, policy=policy)
    waited = {name: count for name, count in counts.items() if "without" not in name}
    assert waited == {"to the host": 1, "from the host": 1, "waits for values": steps - 1}


@pytest.mark.parametrize(
    "policy",
    [
        *RULES,
        Adaptive(threshold=0.6, skip_threshold=0.06, max_consecutive=5),
        Adaptive(threshold=0.3, criterion="curvature", skip_threshold=0.02, forecast="taylor1"),
    ],
    ids=["reused", "forecast", "skipped", "skipped and forecast"],
)
@pytest.mark.parametrize("steps", [20, WINDOW + 6])
def test_what_the_gpu_decides_and_draws_is_what_the_host_decides_and_draws(policy: Policy, steps: int) -> None:
    scheduler: Any = DPMSolverMultistepScheduler()
    table, timesteps = probed(scheduler, steps)
    plan = policy.plan(len(timesteps))
    found: list[tuple[torch.Tensor, list[Decision]]] = []
    with pretended_gpu():
        engines = {FULL: Small(cached=False), SHALLOW: Small(cached=True)}
        made = Session(engines, outputs=["noise_pred"], profiles=[PROFILE])
        latents, there = starting().cuda(), timesteps.cuda()
        for _ in range(3):  # the first one is decided on the host, and recorded
            image = drawn(made, plan, table, there, Guidance(scale=5.0), latents)
            found.append((image.cpu(), list(made.decisions)))
    (image, decisions), *others = found
    assert len({decision.variant for decision in decisions}) > 1
    for another, decided in others:
        assert torch.equal(another, image)
        assert decided == decisions
    assert len(decisions) == steps


def _linear(scheduler: Any) -> dict[str, Any]:
    return {"clip_sample": False} if scheduler is DDIMScheduler else {}
