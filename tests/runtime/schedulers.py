"""Every scheduler that diffusers exports, set up as pipelines set it up: those with a table, and those without one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import diffusers
import pytest
import torch

from deepcache_trt.runtime.sampler.probe import probe
from deepcache_trt.runtime.sampler.table import NoTable, SamplerTable

STEPS = (4, 7, 30, 50)
WITHIN = 1e-5  # of the largest value of the image, in float32

WARNINGS = [
    # Constructors and `set_timesteps` of KDPM2, DEIS and Helios hand tensors to numpy 2 in a way it will drop.
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning"),
    # They are deprecated, and checkpoints that ask for them are not.
    pytest.mark.filterwarnings("ignore:.*algorithm_types dpmsolver and sde-dpmsolver:FutureWarning"),
]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A scheduler as a pipeline sets it up.

    Attributes:
        options: for its constructor.
        timesteps: for `set_timesteps`, beside the number of steps.
        step: for `step`, by keyword.
        unused: timesteps at the end that pipelines leave out.
        steps: the numbers of steps that it is tried with.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    timesteps: Mapping[str, Any] = field(default_factory=dict)
    step: Mapping[str, Any] = field(default_factory=dict)
    unused: int = 0
    steps: tuple[int, ...] = STEPS

    def scheduler(self, name: str, steps: int | None) -> tuple[Any, torch.Tensor]:
        """The scheduler, and the timesteps of the calls; None: for the timesteps that the case gives."""
        scheduler = getattr(diffusers.schedulers, name)(**self.options)
        scheduler.set_timesteps(steps, **self.timesteps)
        return scheduler, scheduler.timesteps[: len(scheduler.timesteps) - self.unused]

    @property
    def given(self) -> list[str]:
        """What sets it apart from Stable Diffusion's."""
        options = {key: value for key, value in self.options.items() if SD.get(key) != value}
        return [f"{key}={value!r}" for key, value in {**options, **self.timesteps, **self.step}.items()]

    def __str__(self) -> str:
        return ",".join(self.given) or "defaults"


@dataclass(frozen=True, kw_only=True)
class Fallback:
    """A scheduler that runs its own `step`: in our words why, and what `probe` says."""

    why: str
    says: str
    case: Case = field(default_factory=Case)


def with_options(**options: Any) -> Case:
    """The case that has nothing but these options for the constructor."""
    return Case(options=options)


# Options that Stable Diffusion's checkpoints give the schedulers of the DDPM family.
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
V_ZERO_SNR = {**SD, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}

TABLES: dict[str, list[Case]] = {
    "CMStochasticIterativeScheduler": [with_options(num_train_timesteps=60, clip_denoised=False)],
    "CogVideoXDDIMScheduler": [
        with_options(),
        with_options(prediction_type="v_prediction", rescale_betas_zero_snr=True),
    ],
    "ConsistencyDecoderScheduler": [Case(steps=(2,))],
    "DDIMInverseScheduler": [with_options(clip_sample=False)],
    "DDIMParallelScheduler": [with_options(clip_sample=False)],
    "DDIMScheduler": [
        with_options(**SD, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        with_options(**V_ZERO_SNR, clip_sample=False),
        with_options(prediction_type="sample", clip_sample=False),
        Case(options={**SD, "clip_sample": False}, step={"eta": 0.7}),
    ],
    "DDPMParallelScheduler": [with_options(clip_sample=False)],
    "DDPMScheduler": [
        with_options(clip_sample=False),
        with_options(clip_sample=False, variance_type="fixed_large", prediction_type="v_prediction"),
        with_options(clip_sample=False, timestep_spacing="trailing", prediction_type="sample"),
    ],
    "DEISMultistepScheduler": [with_options(**SD), with_options(solver_order=3), with_options(use_karras_sigmas=True)],
    "DPMSolverMultistepInverseScheduler": [with_options(**SD)],
    "DPMSolverMultistepScheduler": [
        with_options(**SD),
        with_options(**SD, use_karras_sigmas=True),
        with_options(**SD, algorithm_type="sde-dpmsolver++", use_karras_sigmas=True),
        with_options(**SD, algorithm_type="dpmsolver", final_sigmas_type="sigma_min", solver_order=3),
        with_options(**SD, algorithm_type="sde-dpmsolver", final_sigmas_type="sigma_min"),
        with_options(**SD, solver_order=3, use_lu_lambdas=True),
        with_options(**SD, solver_order=1, euler_at_final=True, prediction_type="v_prediction"),
        with_options(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    ],
    "DPMSolverSinglestepScheduler": [
        with_options(**SD),
        with_options(**SD, solver_order=3, use_karras_sigmas=True),
        with_options(**SD, algorithm_type="sde-dpmsolver++"),
    ],
    "EDMDPMSolverMultistepScheduler": [with_options(), with_options(algorithm_type="sde-dpmsolver++")],
    "EDMEulerScheduler": [with_options(), with_options(sigma_schedule="exponential")],
    "EulerAncestralDiscreteScheduler": [with_options(**SD), Case(options=V_ZERO_SNR, steps=(30, 50))],  # see ROUNDING
    "EulerDiscreteScheduler": [
        with_options(**SD),
        with_options(**SD, use_karras_sigmas=True, timestep_spacing="leading", steps_offset=1),
        Case(options=V_ZERO_SNR, steps=(30, 50)),  # see ROUNDING
        # Stable Video Diffusion's
        with_options(
            **{**SD, "prediction_type": "v_prediction", "timestep_type": "continuous"},
            **{"use_karras_sigmas": True, "sigma_min": 0.002, "sigma_max": 700.0},
        ),
    ],
    "FlowMapEulerDiscreteScheduler": [with_options()],
    "FlowMatchEulerDiscreteScheduler": [with_options(shift=3.0), with_options(stochastic_sampling=True)],
    "FlowMatchHeunDiscreteScheduler": [with_options(shift=3.0)],
    "FlowMatchLCMScheduler": [with_options()],
    "HeliosScheduler": [with_options(stages=1), with_options(stages=1, scheduler_type="euler")],
    "HeunDiscreteScheduler": [
        with_options(**SD),
        with_options(**SD, use_karras_sigmas=True, prediction_type="v_prediction"),
    ],
    "IPNDMScheduler": [with_options()],
    "KDPM2AncestralDiscreteScheduler": [with_options(**SD), with_options(**SD, use_karras_sigmas=True)],
    "KDPM2DiscreteScheduler": [with_options(**SD), with_options(**SD, prediction_type="v_prediction")],
    "LCMScheduler": [with_options(clip_sample=False), with_options(prediction_type="v_prediction")],
    "LMSDiscreteScheduler": [with_options(**SD)],
    "LTXEulerAncestralRFScheduler": [with_options()],
    "MiniMaxH3Scheduler": [with_options()],
    "PNDMScheduler": [
        with_options(**SD, skip_prk_steps=True, steps_offset=1),
        with_options(**SD, skip_prk_steps=False),
        with_options(skip_prk_steps=True, prediction_type="v_prediction"),
    ],
    "SASolverScheduler": [
        with_options(**SD),
        with_options(algorithm_type="data_prediction", prediction_type="v_prediction"),
    ],
    "SCMScheduler": [Case(timesteps={"intermediate_timesteps": None}, unused=1)],
    "TCDScheduler": [with_options(clip_sample=False), Case(step={"eta": 0.0}), Case(step={"eta": 1.0})],
    "UnCLIPScheduler": [with_options(clip_sample=False)],
    "UniPCMultistepScheduler": [
        with_options(**SD),
        with_options(**SD, solver_order=3, solver_type="bh1", final_sigmas_type="sigma_min", use_karras_sigmas=True),
        with_options(**SD, predict_x0=False, final_sigmas_type="sigma_min", disable_corrector=[0, 1]),
        with_options(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    ],
}

TOKENS = "makes tokens, not images"
PROTEIN = with_options(schedule_mode="log", noise_mode="1/t", tsr_k=1.0, tsr_sigma=1.0)
BROWNIAN = "takes its noise from a Brownian tree (torchsde), not from the caller's generator"

FALLBACKS: dict[str, Fallback] = {
    "AmusedScheduler": Fallback(why=TOKENS, says="multinomial", case=with_options(mask_token_id=5)),
    "BlockRefinementScheduler": Fallback(why=TOKENS, says="trial run"),
    "CogVideoXDPMScheduler": Fallback(why="its pipeline hands it two timesteps and an image", says="old_pred_original"),
    "CosineDPMSolverMultistepScheduler": Fallback(why=BROWNIAN, says="past the caller's generator"),
    "DDPMWuerstchenScheduler": Fallback(why="its pipeline hands it a timestep for each image", says="trial run"),
    "DPMSolverSDEScheduler": Fallback(why=BROWNIAN, says="randint"),
    "DiscreteDDIMScheduler": Fallback(why=TOKENS, says="multinomial"),
    "EntropyBoundScheduler": Fallback(why=TOKENS, says="multinomial"),
    "HeliosDMDScheduler": Fallback(
        why="its pipeline hands it noise and tables", says="trial run", case=with_options(stages=1)
    ),
    "KarrasVeScheduler": Fallback(why="its pipeline hands it two noise levels", says="sigma_hat"),
    "PiflowScheduler": Fallback(why="the model's output is ten times as wide as the sample", says="not divisible"),
    "RFD4ProteinaScheduler": Fallback(
        why="makes protein structures, and its step needs a mask", says="emit_mask", case=PROTEIN
    ),
    "RePaintScheduler": Fallback(why="its step needs an image and a mask", says="original_image"),
    "ScoreSdeVeScheduler": Fallback(why="has a predictor and a corrector instead of a step", says="no step"),
    "ScoreSdeVpScheduler": Fallback(why="has a predictor instead of a step", says="no step"),
    "VQDiffusionScheduler": Fallback(why=TOKENS, says="one_hot", case=with_options(num_vec_classes=5)),
}

# Schedulers that have a table otherwise. With ROUNDING the first step is from σ = 4096 to about 10, and computed in
# float32: of the sample that diffusers makes, the last digits are chance.
ROUNDING = {
    name: Case(options=V_ZERO_SNR, steps=(4, 7))
    for name in ("EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler")
}
CLIPPING = {
    "clip_sample=True": ("DDPMScheduler", with_options(clip_sample=True)),
    "clip_denoised=True": ("CMStochasticIterativeScheduler", with_options(clip_denoised=True)),
    "thresholding=True": ("DPMSolverMultistepScheduler", with_options(thresholding=True)),
}


def table_of(scheduler: Any, timesteps: torch.Tensor, **step: Any) -> SamplerTable:
    """The table of a scheduler that has one, for calls at these timesteps."""
    table = probe(scheduler, timesteps, step)
    assert isinstance(table, SamplerTable), table
    return table


def reason(scheduler: Any, timesteps: torch.Tensor, **step: Any) -> str:
    """Why a scheduler has no table for calls at these timesteps."""
    refusal = probe(scheduler, timesteps, step)
    assert isinstance(refusal, NoTable)
    return refusal.reason


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]
