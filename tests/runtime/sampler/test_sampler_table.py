"""Sampler tables: every scheduler that diffusers exports has one that equals its own loop, or a reason why not."""

import inspect
import sys
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor

from deepcache_trt.runtime.sampler.table import SamplerTable
from tests.runtime.scheduler_page import DOCUMENT, document
from tests.runtime.schedulers import (
    BROWNIAN,
    CLIPPING,
    FALLBACKS,
    ROUNDING,
    SD,
    TABLES,
    WARNINGS,
    WITHIN,
    Case,
    reason,
    seeded,
    table_of,
    with_options,
)

SLOTS = 16  # of each ring buffer; enough for every scheduler

pytestmark = WARNINGS

Generators = torch.Generator | list[torch.Generator] | None
Edit = Callable[[torch.Tensor], torch.Tensor]

EXPORTED = sorted(
    {name for module in (diffusers, diffusers.schedulers) for name in dir(module) if name.endswith("Scheduler")}
)


def model(sample: torch.Tensor) -> torch.Tensor:
    """Not linear, and mixes the pixels."""
    return torch.tanh(sample + 0.5 * sample.roll(1, -1))


def latents_for(scheduler: Any, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """[2, 4, 8, 8] noise, as strong as the scheduler wants it."""
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    return (noise * getattr(scheduler, "init_noise_sigma", 1.0)).to(dtype)


def own_loop(
    scheduler: Any, timesteps: torch.Tensor, sample: torch.Tensor, edit: Edit = lambda x: x, **step: Any
) -> torch.Tensor:
    """What a pipeline does."""
    for t in timesteps:
        scaled = scheduler.scale_model_input(sample, t) if hasattr(scheduler, "scale_model_input") else sample
        sample = edit(scheduler.step(model(scaled), t, sample, return_dict=False, **step)[0])
    return sample


def table_loop(
    table: SamplerTable, latents: torch.Tensor, generator: Generators = None, edit: Edit = lambda x: x
) -> torch.Tensor:
    """The same from the table: static buffers, and one product with a row of float32 weights for each call."""
    weights = torch.tensor(table.in_rings(SLOTS, SLOTS, SLOTS), dtype=torch.float32)
    buffers = torch.zeros(3 * SLOTS, *latents.shape)
    samples, outputs, noise = torch.split(buffers, SLOTS)
    samples[0] = latents
    for i in range(len(table)):
        outputs[i % SLOTS] = model(float(table.input_scales[i]) * samples[i % SLOTS])
        if (drawn := table.draw(i, latents, generator)) is not None:
            noise[i % SLOTS] = drawn
        samples[(i + 1) % SLOTS] = edit(torch.einsum("s,s...->...", weights[i], buffers))
    return samples[len(table) % SLOTS]


def difference(image: torch.Tensor, expected: torch.Tensor) -> float:
    assert expected.isfinite().all()
    return float((image - expected).abs().max() / expected.abs().max())


def with_generator(scheduler: Any, generator: Generators) -> dict[str, Any]:
    """As `prepare_extra_step_kwargs` of the pipelines: only where `step` takes one."""
    return {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}


def test_every_exported_scheduler_is_in_one_of_the_two_lists() -> None:
    assert sorted([*TABLES, *FALLBACKS]) == EXPORTED


@pytest.mark.parametrize(
    ("name", "case", "steps"),
    [
        pytest.param(name, case, steps, id=f"{name}-{case}-{steps}")
        for name, cases in TABLES.items()
        for case in cases
        for steps in case.steps
    ],
)
def test_a_table_reproduces_the_schedulers_own_loop(name: str, case: Case, steps: int) -> None:
    scheduler, timesteps = case.scheduler(name, steps)
    latents = latents_for(scheduler)
    table = table_of(scheduler, timesteps, **case.step)
    image = table_loop(table, latents, generator=seeded(1, 2))
    expected = own_loop(scheduler, timesteps, latents, **case.step, **with_generator(scheduler, seeded(1, 2)))
    assert difference(image, expected) < WITHIN


@pytest.mark.parametrize("name", FALLBACKS)
def test_the_others_are_refused_with_the_reason(name: str) -> None:
    if FALLBACKS[name].why == BROWNIAN:
        pytest.importorskip("torchsde")
    assert FALLBACKS[name].says in reason(*FALLBACKS[name].case.scheduler(name, 30))


@pytest.mark.parametrize(("name", "case"), CLIPPING.values(), ids=CLIPPING)
def test_clipping_is_refused(name: str, case: Case) -> None:
    assert "it clips the image that it predicts" in reason(*case.scheduler(name, 7))


@pytest.mark.parametrize(("name", "steps"), [(name, steps) for name, case in ROUNDING.items() for steps in case.steps])
def test_more_rounding_than_two_equal_images_allow_is_refused(name: str, steps: int) -> None:
    assert "rounds a lot: a table is off by" in reason(*ROUNDING[name].scheduler(name, steps))


@pytest.mark.parametrize("generators", ["one", "list", "none"])
@pytest.mark.parametrize(
    "name", ["DDPMScheduler", "EulerAncestralDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "SASolverScheduler"]
)
def test_noise_comes_from_the_callers_generators_in_the_schedulers_order(name: str, generators: str) -> None:
    def generator() -> Generators:
        torch.manual_seed(5)
        kinds: dict[str, Generators] = {"one": seeded(1)[0], "list": seeded(1, 2), "none": None}
        return kinds[generators]

    scheduler, timesteps = TABLES[name][0].scheduler(name, 7)
    latents = latents_for(scheduler)
    image = table_loop(table_of(scheduler, timesteps), latents, generator=generator())
    left = torch.get_rng_state()
    assert difference(image, own_loop(scheduler, timesteps, latents, generator=generator())) < WITHIN
    assert torch.equal(left, torch.get_rng_state())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("DDPMScheduler", TABLES["DDPMScheduler"][0]),
        ("DPMSolverMultistepScheduler", with_options(algorithm_type="sde-dpmsolver++")),
        ("DPMSolverSinglestepScheduler", with_options(algorithm_type="sde-dpmsolver++")),
        ("FlowMatchEulerDiscreteScheduler", with_options(stochastic_sampling=True)),
        ("FlowMatchLCMScheduler", with_options()),
        ("LCMScheduler", with_options(clip_sample=False)),
        ("SCMScheduler", TABLES["SCMScheduler"][0]),
    ],
)
def test_noise_has_the_dtype_in_which_the_scheduler_draws(
    name: str, case: Case, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[torch.Tensor] = []

    def recorded(*args: Any, **kwargs: Any) -> torch.Tensor:
        drawn.append(randn_tensor(*args, **kwargs))
        return drawn[-1]

    scheduler, timesteps = case.scheduler(name, 7)
    latents, table = latents_for(scheduler, dtype), table_of(scheduler, timesteps)
    monkeypatch.setattr(sys.modules[type(scheduler).__module__], "randn_tensor", recorded)
    own_loop(scheduler, timesteps, latents, generator=seeded(1)[0])
    generator = seeded(1)[0]
    ours = [noise for i in range(len(table)) if (noise := table.draw(i, latents, generator)) is not None]
    assert drawn
    assert [noise.dtype for noise in ours] == [noise.dtype for noise in drawn]
    assert all(torch.equal(a, b) for a, b in zip(ours, drawn, strict=True))


class TestCallPatterns:
    """What pipelines do to a scheduler beside asking for a number of steps."""

    @pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "HeunDiscreteScheduler", "DPMSolverMultistepScheduler"])
    def test_strength(self, name: str) -> None:
        scheduler, timesteps = with_options(**SD).scheduler(name, 20)
        start = 8 * scheduler.order
        scheduler.set_begin_index(start)
        self.assert_equal(scheduler, timesteps[start:])

    @pytest.mark.parametrize("name", ["PNDMScheduler", "DDIMScheduler", "UniPCMultistepScheduler", "LCMScheduler"])
    def test_strength_without_an_index_to_begin_at(self, name: str) -> None:
        scheduler, timesteps = TABLES[name][0].scheduler(name, 20)
        self.assert_equal(scheduler, timesteps[8:])

    @pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "UniPCMultistepScheduler", "DDIMScheduler"])
    def test_denoising_end(self, name: str) -> None:
        scheduler, timesteps = TABLES[name][0].scheduler(name, 20)
        self.assert_equal(scheduler, timesteps[:12])

    @pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "LCMScheduler"])
    def test_custom_timesteps(self, name: str) -> None:
        timesteps = {"timesteps": [999, 759, 499, 259]}  # LCM's are multiples of 20, less 1
        self.assert_equal(*Case(options=SD, timesteps=timesteps).scheduler(name, None))

    @pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler"])
    def test_custom_sigmas(self, name: str) -> None:
        self.assert_equal(*Case(timesteps={"sigmas": [0.9, 0.7, 0.4, 0.2]}).scheduler(name, None))

    @pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "HeunDiscreteScheduler", "EDMEulerScheduler"])
    def test_a_table_may_be_made_once_the_first_input_was_scaled(self, name: str) -> None:
        scheduler, timesteps = TABLES[name][0].scheduler(name, 7)
        before = table_of(scheduler, timesteps)
        scheduler.scale_model_input(latents_for(scheduler), timesteps[0])
        assert (table_of(scheduler, timesteps).sample_weights == before.sample_weights).all()

    @pytest.mark.parametrize("name", ["PNDMScheduler", "HeunDiscreteScheduler", "IPNDMScheduler"])
    def test_samples_that_are_edited_between_calls(self, name: str) -> None:
        scheduler, timesteps = TABLES[name][0].scheduler(name, 20)
        table, latents = table_of(scheduler, timesteps), latents_for(scheduler)
        assert table.takes_edited_samples
        image = table_loop(table, latents, edit=lambda x: 0.9 * x + 0.1)
        assert difference(image, own_loop(scheduler, timesteps, latents, edit=lambda x: 0.9 * x + 0.1)) < WITHIN

    @pytest.mark.parametrize("name", ["UniPCMultistepScheduler", "SASolverScheduler"])
    def test_a_sampler_with_a_sample_of_its_own_says_that_edits_escape_it(self, name: str) -> None:
        table = table_of(*TABLES[name][0].scheduler(name, 20))
        assert not table.takes_edited_samples
        assert table.sample_weights.shape[1] <= 4, "else its memory is as long as the run"

    @staticmethod
    def assert_equal(scheduler: Any, timesteps: torch.Tensor) -> None:
        table, latents = table_of(scheduler, timesteps), latents_for(scheduler)
        generators = with_generator(scheduler, seeded(1)[0])
        assert len(table) == len(timesteps)
        assert (
            difference(table_loop(table, latents, seeded(1)[0]), own_loop(scheduler, timesteps, latents, **generators))
            < WITHIN
        )


def test_rings_never_move_what_they_hold() -> None:
    table = table_of(*TABLES["DPMSolverMultistepScheduler"][0].scheduler("DPMSolverMultistepScheduler", 7))
    rings = table.in_rings(2, 3, 1)
    assert rings.shape == (7, 6)
    x, output = table.sample_weights[4], table.output_weights[4]
    assert rings[4].tolist() == [x[0], x[1], output[1], output[0], 0, 0]  # x[4], x[3]; ε[3], ε[4], ε[2]; z[4]


def test_the_page_of_the_docs_is_up_to_date() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "run: python -m tests.runtime.scheduler_page"
