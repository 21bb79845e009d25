"""A model of two lines, its variants as engines, and generations with it."""

from collections.abc import Callable
from typing import Any

import torch

from deepcache_trt.engines.engine import Engine
from deepcache_trt.engines.profile import Range, ShapeProfile
from deepcache_trt.runtime.guidance import Guidance
from deepcache_trt.runtime.loop import denoise
from deepcache_trt.runtime.loop_state import Known
from deepcache_trt.runtime.plan import FULL, SKIP, Plan
from deepcache_trt.runtime.policies.deepcache import SHALLOW
from deepcache_trt.runtime.sampler.probe import probe
from deepcache_trt.runtime.sampler.table import SamplerTable
from deepcache_trt.runtime.session import Session
from deepcache_trt.tensors import TensorSpec

IMAGE = ("batch", 4, "height", "width")
SPECS = {
    "sample": TensorSpec(name="sample", dtype="float32", shape=IMAGE),
    "timestep": TensorSpec(name="timestep", dtype="float32", shape=(1,)),
    "noise_pred": TensorSpec(name="noise_pred", dtype="float32", shape=IMAGE),
    "tap_0": TensorSpec(name="tap_0", dtype="float32", shape=IMAGE),
}
ANY = Range(min=1, opt=2, max=8)
PROFILE = ShapeProfile(batch=ANY, height=ANY, width=ANY)

Tensors = dict[str, torch.Tensor]


def deep(sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """What a full call computes and a cached one reuses."""
    return torch.sin(3 * sample) + timestep / 1000


def shallow(sample: torch.Tensor, tap: torch.Tensor) -> torch.Tensor:
    return 0.5 * tap + 0.3 * sample.roll(1, -1)


class Small(Engine):
    """A variant of the model above."""

    capturable = True

    def __init__(self, *, cached: bool) -> None:
        self.inputs = {name: SPECS[name] for name in ["sample", "tap_0" if cached else "timestep"]}
        self.outputs = {name: SPECS[name] for name in (["noise_pred"] if cached else ["noise_pred", "tap_0"])}
        self._bound: Tensors = {}
        self.runs = 0

    def bind(self, name: str, tensor: torch.Tensor) -> None:
        self._bound[name] = tensor

    def run(self) -> None:
        self.runs += 1
        if "tap_0" in self.outputs:
            self._bound["tap_0"].copy_(deep(self._bound["sample"], self._bound["timestep"]))
        self._bound["noise_pred"].copy_(shallow(self._bound["sample"], self._bound["tap_0"]))

    def close(self) -> None: ...


def probed(scheduler: Any, steps: int) -> tuple[SamplerTable, torch.Tensor]:
    scheduler.set_timesteps(steps)
    table = probe(scheduler, scheduler.timesteps)
    assert isinstance(table, SamplerTable), table
    return table, scheduler.timesteps


def expected(
    plan: Plan,
    table: SamplerTable,
    timesteps: torch.Tensor,
    guidance: Guidance,
    latents: torch.Tensor,
    generator: torch.Generator | None = None,
    known: Known | None = None,
) -> torch.Tensor:
    """The same generation, spelt out, without a forecast."""
    samples, outputs, noise = [latents], [], []
    for call, variant in enumerate(plan.variants):
        given = torch.cat([float(table.input_scales[call]) * samples[-1]] * guidance.copies)
        if variant == FULL:
            tap = deep(given, timesteps[call].float())
        if variant != SKIP:
            prediction = shallow(given, tap)
        outputs.append(guidance(prediction))
        drawn = table.draw(call, latents, generator)
        noise.append(torch.zeros_like(latents) if drawn is None else drawn)
        sample = table.next_sample(call, samples, outputs, noise)
        if known is not None:
            of_latents, of_noise = known.scales[call].tolist()
            kept = of_latents * known.latents + of_noise * known.noise
            sample = known.mask * sample + (1 - known.mask) * kept
        samples.append(sample)
    return samples[-1]


def drawn(
    session: Session,
    plan: Plan,
    table: SamplerTable,
    timesteps: torch.Tensor,
    guidance: Guidance,
    latents: torch.Tensor,
    generator: torch.Generator | None = None,
    on_step: Callable[[int], None] = lambda done: None,
    known: Known | None = None,
) -> torch.Tensor:
    """First call as a pipeline makes it, then the loop."""
    given = torch.cat([float(table.input_scales[0]) * latents] * guidance.copies)
    sizes = {"batch": len(given), "height": latents.shape[2], "width": latents.shape[3]}
    session.begin(forecast=plan.forecast, rule=plan.rule)
    session.run(FULL, {"sample": given, "timestep": timesteps[:1].float()}, sizes)
    return denoise(
        session,
        plan,
        table,
        guidance,
        latents=latents,
        timesteps=list(timesteps),
        generator=generator,
        on_step=on_step,
        known=known,
    )


def starting(batch: int = 2, side: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 4, side, side, generator=torch.Generator().manual_seed(seed))


def every(interval: int, calls: int, other: str = SHALLOW) -> Plan:
    return Plan(variants=tuple(FULL if call % interval == 0 else other for call in range(calls)))


NONE, PLAIN, RESCALED = Guidance(scale=None), Guidance(scale=5.0), Guidance(scale=5.0, rescale=0.7)
PER_IMAGE = Guidance(scale=torch.tensor([1.0, 7.5]).view(2, 1, 1, 1))
OF_AN_IMAGE = Guidance(scale=5.0, image_scale=1.5)
GUIDANCE = {"none": NONE, "plain": PLAIN, "rescaled": RESCALED, "per image": PER_IMAGE, "of an image": OF_AN_IMAGE}
