"""The loop on small engines whose arithmetic is known: plans, tables, guidance, noise and forecasts."""

from itertools import pairwise, product
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler, PNDMScheduler

from deepcache_trt.runtime.forecast import FORECASTERS
from deepcache_trt.runtime.guidance import Guidance
from deepcache_trt.runtime.loop_state import WINDOW, Known
from deepcache_trt.runtime.plan import FULL, SKIP, Plan
from deepcache_trt.runtime.policies.deepcache import SHALLOW
from deepcache_trt.runtime.sampler.table import SamplerTable
from deepcache_trt.runtime.session import Session
from tests.runtime.small_model import (
    GUIDANCE,
    NONE,
    PLAIN,
    PROFILE,
    RESCALED,
    Small,
    drawn,
    every,
    expected,
    probed,
    starting,
)


@pytest.fixture
def session() -> Session:
    engines = {FULL: Small(cached=False), SHALLOW: Small(cached=True)}
    return Session(engines, outputs=["noise_pred"], profiles=[PROFILE])


@pytest.mark.parametrize("guidance", GUIDANCE.values(), ids=GUIDANCE)
@pytest.mark.parametrize("other", [SHALLOW, SKIP])
@pytest.mark.parametrize("scheduler", [DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler])
def test_a_loop_is_its_plan_and_its_table(session: Session, guidance: Guidance, other: str, scheduler: Any) -> None:
    options = {"clip_sample": False} if scheduler is DDIMScheduler else {}
    table, timesteps = probed(scheduler(**options), 7)
    plan = every(3, len(table), other)
    found = drawn(session, plan, table, timesteps, guidance, starting())
    torch.testing.assert_close(found, expected(plan, table, timesteps, guidance, starting()), rtol=1e-5, atol=1e-5)


def test_what_is_known_is_pasted_after_every_call(session: Session) -> None:
    """And a generation before or after it knows nothing of that."""
    table, timesteps = probed(DPMSolverMultistepScheduler(), 6)
    plan = every(3, 6)
    mask = torch.linspace(0, 1, 2 * 16).reshape(2, 1, 4, 4)
    scales = torch.rand(6, 2, generator=torch.Generator().manual_seed(0)).numpy()
    some = Known(mask=mask, latents=starting(seed=8), noise=starting(seed=9), scales=scales)
    for seed, known in enumerate((None, some, None)):
        found = drawn(session, plan, table, timesteps, PLAIN, starting(seed=seed), known=known)
        wanted = expected(plan, table, timesteps, PLAIN, starting(seed=seed), known=known)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_noise_is_drawn_from_the_callers_generator_in_order(session: Session) -> None:
    table, timesteps = probed(EulerAncestralDiscreteScheduler(), 5)
    plan = every(2, 5)
    ours, theirs = (torch.Generator().manual_seed(3) for _ in range(2))
    found = drawn(session, plan, table, timesteps, NONE, starting(), ours)
    wanted = expected(plan, table, timesteps, NONE, starting(), theirs)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(ours.get_state(), theirs.get_state())


@pytest.mark.parametrize("steps", [WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW + 3])
def test_a_run_of_any_length_goes_on_from_window_to_window(session: Session, steps: int) -> None:
    table, timesteps = probed(EulerAncestralDiscreteScheduler(), steps)
    plan, done = every(5, steps), [0]
    ours, theirs = (torch.Generator().manual_seed(3) for _ in range(2))
    found = drawn(session, plan, table, timesteps, NONE, starting(), ours, done.append)
    wanted = expected(plan, table, timesteps, NONE, starting(), theirs)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert done == list(range(steps + 1))


def test_one_generation_leaves_nothing_to_the_next(session: Session) -> None:
    """Lengths, schedulers, guidance and sizes in a row, each as if it were the first."""
    runs = [
        (DDIMScheduler(clip_sample=False), 6, PLAIN, starting()),
        (PNDMScheduler(), 4, Guidance(scale=2.0), starting(side=8)),
        (DPMSolverMultistepScheduler(), 5, NONE, starting(batch=1)),
        (DDIMScheduler(clip_sample=False), 3, Guidance(scale=9.0), torch.full((2, 4, 4, 4), torch.nan)),
        (DDIMScheduler(clip_sample=False), 6, PLAIN, starting()),
        (DPMSolverMultistepScheduler(), 9, RESCALED, starting(seed=1)),
    ]
    for scheduler, steps, guidance, latents in runs:
        table, timesteps = probed(scheduler, steps)
        plan = every(2, len(table))
        found = drawn(session, plan, table, timesteps, guidance, latents)
        wanted = expected(plan, table, timesteps, guidance, latents)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_the_same_units_serve_every_plan_scheduler_and_prompt(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is recorded on a GPU: one step for each variant and one update, on the same memory."""
    asked: list[set[Any]] = []
    monkeypatch.setattr(Session, "record", lambda session, units: asked.append({*units}) if len(units) > 1 else None)
    for scheduler, steps, interval, scale, seed in (
        (DDIMScheduler(clip_sample=False), 6, 2, 5.0, 0),
        (DPMSolverMultistepScheduler(), 9, 3, 7.5, 1),
        (PNDMScheduler(skip_prk_steps=True), 5, 4, 2.0, 2),
    ):
        table, timesteps = probed(scheduler, steps)
        drawn(session, every(interval, len(table)), table, timesteps, Guidance(scale=scale), starting(seed=seed))
    assert len(asked) == 3
    assert all(one == other for one, other in pairwise(asked))
    assert len(asked[0]) == 3

    table, timesteps = probed(EulerAncestralDiscreteScheduler(), 4)
    drawn(session, every(2, 4), table, timesteps, PLAIN, starting(), torch.Generator())
    assert len(asked[-1] - asked[0]) == 1, "where noise is drawn the update is another, but no engine's step"

    addresses = {name: tensor.data_ptr() for name, tensor in session.buffers.items()}
    table, timesteps = probed(DDIMScheduler(clip_sample=False), 4)
    drawn(session, every(2, 4), table, timesteps, PLAIN, starting(side=8))
    drawn(session, every(2, 4), table, timesteps, PLAIN, starting())
    assert asked[-1] == asked[0], "a shape that was here before finds its own again"
    assert {name: tensor.data_ptr() for name, tensor in session.buffers.items()} == addresses


@pytest.mark.parametrize("forecaster", FORECASTERS)
@pytest.mark.parametrize("other", [SHALLOW, SKIP])
def test_a_forecast_follows_a_line_where_reuse_stands_still(session: Session, other: str, forecaster: str) -> None:
    """The deep features of this model move with the timestep, linearly; its samples are held at zero."""
    table, timesteps = probed(DDIMScheduler(clip_sample=False), 9)
    still = SamplerTable(
        input_scales=0 * table.input_scales,
        sample_weights=table.sample_weights,
        output_weights=table.output_weights,
        noise_weights=table.noise_weights,
        draws=table.draws,
        noise_dtypes=table.noise_dtypes,
        takes_edited_samples=table.takes_edited_samples,
    )
    true = drawn(session, every(1, 9), still, timesteps, NONE, starting())
    variants = (FULL, FULL, *every(3, 7, other).variants)
    reused, forecast = (
        drawn(session, Plan(variants=variants, forecast=wanted), still, timesteps, NONE, starting())
        for wanted in (None, forecaster)
    )
    torch.testing.assert_close(forecast, true, rtol=1e-5, atol=1e-5)
    assert (reused - true).abs().max() > 0.01


def stepped(
    session: Session, plan: Plan, table: SamplerTable, timesteps: torch.Tensor, latents: torch.Tensor
) -> torch.Tensor:
    """The same generation, one call of the session after the other."""
    session.begin(forecast=plan.forecast)
    sizes = {"batch": len(latents), "height": latents.shape[2], "width": latents.shape[3]}
    samples, outputs = [latents], []
    for call, variant in enumerate(plan.variants):
        given = {"sample": float(table.input_scales[call]) * samples[-1], "timestep": timesteps[call, None].float()}
        outputs.append(session.run(variant, given, sizes)["noise_pred"])
        samples.append(table.next_sample(call, samples, outputs, [torch.zeros_like(latents)] * len(outputs)))
    return samples[-1]


@pytest.mark.parametrize("calls", [20, WINDOW + 6])
def test_every_plan_and_forecast_is_the_same_both_ways_whatever_was_drawn_before(session: Session, calls: int) -> None:
    table, timesteps = probed(DPMSolverMultistepScheduler(), calls)
    uneven = tuple(FULL if call % 7 in (0, 1, 4) else SHALLOW for call in range(calls))
    mixed = (FULL, SHALLOW, SKIP, SHALLOW, SKIP) * calls
    for variants, forecast in product((uneven, mixed[:calls]), (*FORECASTERS, None)):
        plan = Plan(variants=variants, forecast=forecast)
        looped = drawn(session, plan, table, timesteps, NONE, starting())
        assert looped.isfinite().all()
        torch.testing.assert_close(looped, stepped(session, plan, table, timesteps, starting()), rtol=1e-4, atol=1e-4)
        drawn(session, plan, table, timesteps, NONE, torch.full_like(starting(), torch.nan))


def test_after_a_skipped_call_what_a_cached_one_reuses_is_forecast_for_that_call(session: Session) -> None:
    """Skipped calls move the prediction, not the tap."""
    sizes = {"batch": 1, "height": 4, "width": 4}
    given = {"sample": torch.zeros(1, 4, 4, 4)}  # the tap is then the timestep over 1000
    session.begin(forecast="taylor1")
    for call, variant in enumerate((FULL, FULL, SKIP, SKIP, SHALLOW)):
        found = session.run(variant, {**given, "timestep": torch.full((1,), 1000.0 * call)}, sizes)
    torch.testing.assert_close(session.buffers["tap_0"], torch.full((1, 4, 4, 4), 4.0))
    torch.testing.assert_close(found["noise_pred"], torch.full((1, 4, 4, 4), 2.0))


def test_a_skipped_call_runs_no_engine(session: Session) -> None:
    table, timesteps = probed(DDIMScheduler(clip_sample=False), 6)
    drawn(session, every(3, 6, SKIP), table, timesteps, NONE, starting())
    assert [engine.runs for engine in session.engines.values()] == [2, 0]  # type: ignore[attr-defined]
