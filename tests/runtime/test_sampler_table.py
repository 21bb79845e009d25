"""Sampler tables: every scheduler that diffusers exports has one that equals its own loop, or a reason why not.

`python -m tests.runtime.test_sampler_table` writes docs/schedulers.md from the cases below.
"""

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor

from deepcache_trt.runtime.sampler_table import NoTable, SamplerTable
from deepcache_trt.runtime.scheduler_probe import probe, state_key

DOCUMENT = Path(__file__).parents[2] / "docs" / "schedulers.md"
STEPS = (4, 7, 30, 50)
WITHIN = 1e-5  # of the largest value of the image, in float32
SLOTS = 16  # of each ring buffer; enough for every scheduler

pytestmark = [
    # Constructors and `set_timesteps` of KDPM2, DEIS and Helios hand tensors to numpy 2 in a way it will drop.
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning"),
    # They are deprecated, and checkpoints that ask for them are not.
    pytest.mark.filterwarnings("ignore:.*algorithm_types dpmsolver and sde-dpmsolver:FutureWarning"),
]

Generators = torch.Generator | list[torch.Generator] | None
Edit = Callable[[torch.Tensor], torch.Tensor]


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

    def scheduler(self, name: str, steps: int) -> tuple[Any, torch.Tensor]:
        """The scheduler, and the timesteps of the calls."""
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


def _options(**options: Any) -> Case:
    return Case(options=options)


# Options that Stable Diffusion's checkpoints give the schedulers of the DDPM family.
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
V_ZERO_SNR = {**SD, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}

TABLES: dict[str, list[Case]] = {
    "CMStochasticIterativeScheduler": [_options(num_train_timesteps=60, clip_denoised=False)],
    "CogVideoXDDIMScheduler": [_options(), _options(prediction_type="v_prediction", rescale_betas_zero_snr=True)],
    "ConsistencyDecoderScheduler": [Case(steps=(2,))],
    "DDIMInverseScheduler": [_options(clip_sample=False)],
    "DDIMParallelScheduler": [_options(clip_sample=False)],
    "DDIMScheduler": [
        _options(**SD, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        _options(**V_ZERO_SNR, clip_sample=False),
        _options(prediction_type="sample", clip_sample=False),
        Case(options={**SD, "clip_sample": False}, step={"eta": 0.7}),
    ],
    "DDPMParallelScheduler": [_options(clip_sample=False)],
    "DDPMScheduler": [
        _options(clip_sample=False),
        _options(clip_sample=False, variance_type="fixed_large", prediction_type="v_prediction"),
        _options(clip_sample=False, timestep_spacing="trailing", prediction_type="sample"),
    ],
    "DEISMultistepScheduler": [_options(**SD), _options(solver_order=3), _options(use_karras_sigmas=True)],
    "DPMSolverMultistepInverseScheduler": [_options(**SD)],
    "DPMSolverMultistepScheduler": [
        _options(**SD),
        _options(**SD, use_karras_sigmas=True),
        _options(**SD, algorithm_type="sde-dpmsolver++", use_karras_sigmas=True),
        _options(**SD, algorithm_type="dpmsolver", final_sigmas_type="sigma_min", solver_order=3),
        _options(**SD, algorithm_type="sde-dpmsolver", final_sigmas_type="sigma_min"),
        _options(**SD, solver_order=3, use_lu_lambdas=True),
        _options(**SD, solver_order=1, euler_at_final=True, prediction_type="v_prediction"),
        _options(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    ],
    "DPMSolverSinglestepScheduler": [
        _options(**SD),
        _options(**SD, solver_order=3, use_karras_sigmas=True),
        _options(**SD, algorithm_type="sde-dpmsolver++"),
    ],
    "EDMDPMSolverMultistepScheduler": [_options(), _options(algorithm_type="sde-dpmsolver++")],
    "EDMEulerScheduler": [_options(), _options(sigma_schedule="exponential")],
    "EulerAncestralDiscreteScheduler": [_options(**SD), Case(options=V_ZERO_SNR, steps=(30, 50))],  # see ROUNDING
    "EulerDiscreteScheduler": [
        _options(**SD),
        _options(**SD, use_karras_sigmas=True, timestep_spacing="leading", steps_offset=1),
        Case(options=V_ZERO_SNR, steps=(30, 50)),  # see ROUNDING
        # Stable Video Diffusion's
        _options(
            **{**SD, "prediction_type": "v_prediction", "timestep_type": "continuous"},
            **{"use_karras_sigmas": True, "sigma_min": 0.002, "sigma_max": 700.0},
        ),
    ],
    "FlowMapEulerDiscreteScheduler": [_options()],
    "FlowMatchEulerDiscreteScheduler": [_options(shift=3.0), _options(stochastic_sampling=True)],
    "FlowMatchHeunDiscreteScheduler": [_options(shift=3.0)],
    "FlowMatchLCMScheduler": [_options()],
    "HeliosScheduler": [_options(stages=1), _options(stages=1, scheduler_type="euler")],
    "HeunDiscreteScheduler": [_options(**SD), _options(**SD, use_karras_sigmas=True, prediction_type="v_prediction")],
    "IPNDMScheduler": [_options()],
    "KDPM2AncestralDiscreteScheduler": [_options(**SD), _options(**SD, use_karras_sigmas=True)],
    "KDPM2DiscreteScheduler": [_options(**SD), _options(**SD, prediction_type="v_prediction")],
    "LCMScheduler": [_options(clip_sample=False), _options(prediction_type="v_prediction")],
    "LMSDiscreteScheduler": [_options(**SD)],
    "LTXEulerAncestralRFScheduler": [_options()],
    "MiniMaxH3Scheduler": [_options()],
    "PNDMScheduler": [
        _options(**SD, skip_prk_steps=True, steps_offset=1),
        _options(**SD, skip_prk_steps=False),
        _options(skip_prk_steps=True, prediction_type="v_prediction"),
    ],
    "SASolverScheduler": [_options(**SD), _options(algorithm_type="data_prediction", prediction_type="v_prediction")],
    "SCMScheduler": [Case(timesteps={"intermediate_timesteps": None}, unused=1)],
    "TCDScheduler": [_options(clip_sample=False), Case(step={"eta": 0.0}), Case(step={"eta": 1.0})],
    "UnCLIPScheduler": [_options(clip_sample=False)],
    "UniPCMultistepScheduler": [
        _options(**SD),
        _options(**SD, solver_order=3, solver_type="bh1", final_sigmas_type="sigma_min", use_karras_sigmas=True),
        _options(**SD, predict_x0=False, final_sigmas_type="sigma_min", disable_corrector=[0, 1]),
        _options(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    ],
}

TOKENS = "makes tokens, not images"
PROTEIN = _options(schedule_mode="log", noise_mode="1/t", tsr_k=1.0, tsr_sigma=1.0)
BROWNIAN = "takes its noise from a Brownian tree (torchsde), not from the caller's generator"

FALLBACKS: dict[str, Fallback] = {
    "AmusedScheduler": Fallback(why=TOKENS, says="multinomial", case=_options(mask_token_id=5)),
    "BlockRefinementScheduler": Fallback(why=TOKENS, says="trial run"),
    "CogVideoXDPMScheduler": Fallback(why="its pipeline hands it two timesteps and an image", says="old_pred_original"),
    "CosineDPMSolverMultistepScheduler": Fallback(why=BROWNIAN, says="past the caller's generator"),
    "DDPMWuerstchenScheduler": Fallback(why="its pipeline hands it a timestep for each image", says="trial run"),
    "DPMSolverSDEScheduler": Fallback(why=BROWNIAN, says="randint"),
    "DiscreteDDIMScheduler": Fallback(why=TOKENS, says="multinomial"),
    "EntropyBoundScheduler": Fallback(why=TOKENS, says="multinomial"),
    "HeliosDMDScheduler": Fallback(
        why="its pipeline hands it noise and tables", says="trial run", case=_options(stages=1)
    ),
    "KarrasVeScheduler": Fallback(why="its pipeline hands it two noise levels", says="sigma_hat"),
    "PiflowScheduler": Fallback(why="the model's output is ten times as wide as the sample", says="not divisible"),
    "RFD4ProteinaScheduler": Fallback(
        why="makes protein structures, and its step needs a mask", says="emit_mask", case=PROTEIN
    ),
    "RePaintScheduler": Fallback(why="its step needs an image and a mask", says="original_image"),
    "ScoreSdeVeScheduler": Fallback(why="has a predictor and a corrector instead of a step", says="no step"),
    "ScoreSdeVpScheduler": Fallback(why="has a predictor instead of a step", says="no step"),
    "VQDiffusionScheduler": Fallback(why=TOKENS, says="one_hot", case=_options(num_vec_classes=5)),
}

# Schedulers that have a table otherwise. With ROUNDING the first step is from σ = 4096 to about 10, and computed in
# float32: of the sample that diffusers makes, the last digits are chance.
ROUNDING = {
    name: Case(options=V_ZERO_SNR, steps=(4, 7))
    for name in ("EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler")
}
CLIPPING = {
    "clip_sample=True": ("DDPMScheduler", _options(clip_sample=True)),
    "clip_denoised=True": ("CMStochasticIterativeScheduler", _options(clip_denoised=True)),
    "thresholding=True": ("DPMSolverMultistepScheduler", _options(thresholding=True)),
}

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
    samples, outputs, noise = buffers.split(SLOTS)
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


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def with_generator(scheduler: Any, generator: Generators) -> dict[str, Generators]:
    """As `prepare_extra_step_kwargs` of the pipelines: only where `step` takes one."""
    return {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}


def table_of(scheduler: Any, timesteps: torch.Tensor, **step: Any) -> SamplerTable:
    table = probe(scheduler, timesteps, step)
    assert isinstance(table, SamplerTable), table
    return table


def reason(scheduler: Any, timesteps: torch.Tensor, **step: Any) -> str:
    refusal = probe(scheduler, timesteps, step)
    assert isinstance(refusal, NoTable)
    return refusal.reason


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
        return {"one": seeded(1)[0], "list": seeded(1, 2), "none": None}[generators]

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
        ("DPMSolverMultistepScheduler", _options(algorithm_type="sde-dpmsolver++")),
        ("DPMSolverSinglestepScheduler", _options(algorithm_type="sde-dpmsolver++")),
        ("FlowMatchEulerDiscreteScheduler", _options(stochastic_sampling=True)),
        ("FlowMatchLCMScheduler", _options()),
        ("LCMScheduler", _options(clip_sample=False)),
        ("SCMScheduler", TABLES["SCMScheduler"][0]),
    ],
)
def test_noise_has_the_dtype_in_which_the_scheduler_draws(
    name: str, case: Case, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

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
        scheduler, timesteps = _options(**SD).scheduler(name, 20)
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


class Linear:
    """A scheduler that no library knows; what makes the others below special is their `step`."""

    def step(self, model_output: Any, timestep: Any, sample: Any, return_dict: bool = True) -> tuple[torch.Tensor]:
        return (self.next(model_output, sample),)

    def next(self, output: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        return 0.9 * sample - 0.1 * output


class Squares(Linear):
    def next(self, output: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        return sample - 0.1 * output * output


class Centred(Linear):
    def next(self, output: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        return sample - 0.1 * output - sample.mean()


class Noisy(Linear):
    def next(self, output: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        return sample - 0.1 * output + torch.randn_like(sample)


class OwnGenerator(Linear):
    def next(self, output: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        return sample + torch.randn(sample.shape)


class Infinite(Linear):
    def next(self, output: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        return sample / 0 - output


class Broken(Linear):
    def next(self, output: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such step.\nAt all.")


def test_a_scheduler_of_ones_own_that_is_linear_has_a_table() -> None:
    table = table_of(Linear(), torch.arange(3))
    assert table.sample_weights.tolist() == [[0.9]] * 3
    assert table.output_weights.tolist() == [[-0.1]] * 3
    assert table.noise_weights.shape == (3, 0)


@pytest.mark.parametrize(
    ("scheduler", "says"),
    [
        (Squares(), "it is not linear, or rounds a lot: a table is off by"),
        (Centred(), "it adds something of its own to the sample"),
        (Noisy(), "it draws random numbers with randn_like"),
        (OwnGenerator(), "it draws noise past the caller's generator"),
        (Infinite(), "its coefficients are not finite"),
        (Broken(), "it fails on a trial run: no such step"),
    ],
)
def test_a_scheduler_of_ones_own_that_is_not_is_refused_with_the_reason(scheduler: Any, says: str) -> None:
    assert reason(scheduler, torch.arange(3)).startswith(says)


def test_a_step_that_was_replaced_on_the_object_is_refused() -> None:
    scheduler, timesteps = TABLES["DDIMScheduler"][0].scheduler("DDIMScheduler", 4)
    scheduler.step = scheduler.step
    assert "replaced on the object" in reason(scheduler, timesteps)


def test_arguments_of_step_that_may_change_are_refused() -> None:
    scheduler, timesteps = TABLES["UnCLIPScheduler"][0].scheduler("UnCLIPScheduler", 4)
    assert reason(scheduler, timesteps, prev_timestep=timesteps[1]).startswith("its step is given prev_timestep")


def test_probing_changes_neither_the_scheduler_nor_torchs_generator() -> None:
    scheduler, timesteps = TABLES["SASolverScheduler"][0].scheduler("SASolverScheduler", 7)
    key, state = state_key(scheduler, timesteps), torch.get_rng_state()
    table_of(scheduler, timesteps)
    assert state_key(scheduler, timesteps) == key
    assert torch.equal(torch.get_rng_state(), state)


def test_a_default_device_is_left_alone() -> None:
    scheduler, timesteps = TABLES["DDPMScheduler"][0].scheduler("DDPMScheduler", 7)
    with torch.device("meta"):
        table_of(scheduler, timesteps)


def test_noise_of_no_given_dtype_has_the_default_one() -> None:
    scheduler, timesteps = TABLES["SCMScheduler"][0].scheduler("SCMScheduler", 7)
    torch.set_default_dtype(torch.float64)
    try:
        assert set(table_of(scheduler, timesteps).noise_dtypes.values()) == {torch.float64}
    finally:
        torch.set_default_dtype(torch.float32)


def test_rings_never_move_what_they_hold() -> None:
    table = table_of(*TABLES["DPMSolverMultistepScheduler"][0].scheduler("DPMSolverMultistepScheduler", 7))
    rings = table.in_rings(2, 3, 1)
    assert rings.shape == (7, 6)
    x, output = table.sample_weights[4], table.output_weights[4]
    assert rings[4].tolist() == [x[0], x[1], output[1], output[0], 0, 0]  # x[4], x[3]; ε[3], ε[4], ε[2]; z[4]


def test_the_state_of_a_scheduler_has_one_key() -> None:
    def key(name: str = "EulerDiscreteScheduler", steps: int = 7, begin: int | None = None, **step: Any) -> str:
        scheduler, timesteps = TABLES[name][0].scheduler(name, steps)
        if begin is not None:
            scheduler.set_begin_index(begin)
        return state_key(scheduler, timesteps, step)

    others = [key(), key(steps=8), key(begin=2), key(eta=0.5), key(prev_timestep=1), key("HeunDiscreteScheduler")]
    assert len(set(others)) == len(others)
    assert key() == key()
    assert key(generator=seeded(1)) == key(generator=seeded(2))
    sigmas = [Case(timesteps={"sigmas": s}).scheduler("EulerDiscreteScheduler", None) for s in ([9.0, 1.0], [9.0, 2.0])]
    assert len({state_key(*given) for given in sigmas}) == 2


def document() -> str:
    """docs/schedulers.md."""
    lines = f"""# Schedulers

A generation without Python between its steps needs the scheduler as a table of weights. A scheduler without one runs
its own `step`, so that every scheduler works. `python tests/runtime/test_sampler_table.py` writes this page from the
cases of that test, which covers every scheduler that diffusers exports.

## With a table

A table is made for each kind of call, and compared with the scheduler before it is used. In float32, its image equals
that of the scheduler's own loop to {WITHIN:.0e} of the largest value, at {", ".join(map(str, STEPS))} steps and with
one generator for each image. Options are beside those of Stable Diffusion. *Memory* is how many calls back a step reads
samples, outputs of the model and noise.

| scheduler | options | steps, if others | memory | noise | remarks |
|---|---|---|---|---|---|
""".splitlines()
    for name, cases in TABLES.items():
        lines += [f"| {name} | {_code(case)} | {' | '.join(_columns(name, case))} |" for case in cases]
    lines += ["", "## Without a table", "", "| scheduler | why |", "|---|---|"]
    lines += [f"| {name} | {fallback.why} |" for name, fallback in FALLBACKS.items()]
    lines += [f"| {name} with {_code(case)} | clipping is not linear |" for name, case in CLIPPING.values()]
    for name, case in ROUNDING.items():
        lines.append(f"| {name} with {_code(case)}, at few steps | its first step, from σ = 4096, rounds too much |")
    lines.append(
        "| any, if a pipeline gives `step` more than `eta` and `generator` | that may change from call to call |"
    )
    lines.append("| any, if its `step` was replaced on the object | it is not the scheduler's own |")
    return "\n".join([*lines, ""])


def _columns(name: str, case: Case) -> list[str]:
    table = table_of(*case.scheduler(name, case.steps[-1]), **case.step)
    memory = [weights.shape[1] for weights in (table.sample_weights, table.output_weights, table.noise_weights)]
    upcast = table.noise_dtypes.get(torch.float16) is torch.float32
    return [
        "" if case.steps == STEPS else ", ".join(map(str, case.steps)),
        ", ".join(map(str, memory)),
        "always in float32" if upcast else "yes" if any(table.draws) else "",
        "" if table.takes_edited_samples else "keeps a sample of its own: no edits between steps",
    ]


def _code(case: Case) -> str:
    return ", ".join(f"`{option}`" for option in case.given)


def test_the_page_of_the_docs_is_up_to_date() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "run: python tests/runtime/test_sampler_table.py"


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
