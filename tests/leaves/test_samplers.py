"""Samplers by name, and the fine solve that they are measured against."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler

from deepcache_trt.errors import DeepCacheError, UnknownNameError
from deepcache_trt.samplers import Sampler, draws_noise, finest, in_words, parse_sampler, sampler_of

OWN: Any = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1, timestep_spacing="leading")


@pytest.mark.parametrize(
    ("text", "class_name"),
    [
        ("DDIMScheduler", "DDIMScheduler"),
        ("ddim", "DDIMScheduler"),
        ("dpmsolvermultistep", "DPMSolverMultistepScheduler"),
        ("UniPC", "UniPCMultistepScheduler"),
        ("eulerDiscretescheduler", "EulerDiscreteScheduler"),
    ],
)
def test_a_short_name_in_any_case_is_enough(text: str, class_name: str) -> None:
    found = parse_sampler(text, OWN)
    assert found == Sampler(class_name=class_name)
    made = found.scheduler(OWN)
    assert type(made).__name__ == class_name
    assert (made.config.beta_schedule, made.config.timestep_spacing) == ("scaled_linear", "leading")


def test_options_take_the_place_of_those_of_the_config() -> None:
    found = parse_sampler("unipc, timestep_spacing=trailing, use_karras_sigmas=true, solver_order=3", OWN)
    assert found.name == "UniPCMultistep,timestep_spacing=trailing,use_karras_sigmas=true,solver_order=3"
    assert parse_sampler(found.name, OWN) == found
    config = found.scheduler(OWN).config
    assert (config.timestep_spacing, config.use_karras_sigmas, config.solver_order) == ("trailing", True, 3)
    assert sampler_of(OWN) == parse_sampler("ddim", OWN)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("unpic", UnknownNameError, r"unknown scheduler 'unpic' \(did you mean 'unipc'\?\); there are DDIM, "),
        ("", UnknownNameError, "unknown scheduler ''; there are DDIM, "),
        ("dpmsolver", UnknownNameError, "several schedulers begin with 'dpmsolver': DPMSolverMultistep, "),
        (
            "ddim,spacing=trailing",
            UnknownNameError,
            r"no option 'spacing' \(did you mean 'timestep_spacing'\?\); it has num_",
        ),
        ("ddim,timestep_spacin=x", UnknownNameError, r"did you mean 'timestep_spacing'\?"),
        ("ddim,clip_sample", DeepCacheError, "option 'clip_sample' of DDIMScheduler has no value; write .*=VALUE"),
        ("ddim,beta_schedule=x", DeepCacheError, "DDIM,beta_schedule=x cannot be made from .*; choose another"),
    ],
)
def test_what_is_no_sampler_is_refused_with_the_cure(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        parse_sampler(text, OWN)


@pytest.mark.parametrize("own_class", [DDIMScheduler, PNDMScheduler, EulerDiscreteScheduler])
def test_the_fine_solve_goes_through_every_timestep_down_to_no_noise(own_class: Any) -> None:
    scheduler, steps = finest(own_class.from_config(OWN.config))
    assert in_words(scheduler, steps) == "DDIM, 1,000 steps"
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == list(range(999, -1, -1))
    assert scheduler.final_alpha_cumprod == 1
    assert not scheduler.config.clip_sample


def test_the_fine_solve_is_where_other_solvers_lead() -> None:
    scheduler, steps = finest(OWN)
    fine = _solve(scheduler, steps)
    coarse = _solve(parse_sampler("dpmsolvermultistep,timestep_spacing=trailing", OWN).scheduler(OWN), 50)
    assert np.isclose(fine, coarse, rtol=5e-3)
    assert not np.isclose(fine, _solve(OWN, 5), rtol=5e-3)


def _solve(scheduler: Any, steps: int) -> float:
    scheduler.set_timesteps(steps)
    sample = torch.full((1, 1, 1, 1), 0.8, dtype=torch.float64) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        alpha = OWN.alphas_cumprod[int(t)]
        # What predicts the noise best where the data is normal with a variance of 1/4.
        noise = sample * (1 - alpha).sqrt() / (alpha / 4 + 1 - alpha)
        sample = scheduler.step(noise, t, sample).prev_sample
    return float(sample)


def test_a_model_of_another_kind_is_solved_with_its_own_scheduler() -> None:
    scheduler, steps = finest(FlowMatchEulerDiscreteScheduler())
    assert in_words(scheduler, steps) == "FlowMatchEulerDiscrete, 1,000 steps"


@pytest.mark.parametrize(
    ("name", "draws"),
    [
        *((name, False) for name in ("ddim", "pndm", "eulerdiscrete", "heun", "unipc", "dpmsolvermultistep", "lms")),
        *((name, True) for name in ("ddpm", "eulerancestral")),
        ("dpmsolvermultistep,algorithm_type=sde-dpmsolver++", True),
    ],
)
def test_a_sampler_that_draws_noise_at_its_steps_is_told(name: str, draws: bool) -> None:
    assert draws_noise(parse_sampler(name, OWN).scheduler(OWN)) == draws


def test_that_a_scheduler_draws_noise_is_found_out_on_a_copy_and_not_from_the_noise_of_others() -> None:
    scheduler: Any = FlowMatchEulerDiscreteScheduler()
    timesteps, state = scheduler.timesteps.clone(), torch.get_rng_state()
    assert not draws_noise(scheduler)
    assert torch.equal(scheduler.timesteps, timesteps)
    assert torch.equal(torch.get_rng_state(), state)
