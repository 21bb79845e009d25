"""What is asked of a scheduler that has no name here: a table where its step is linear, or the reason why not."""

from typing import Any

import pytest
import torch

from deepcache_trt.runtime.sampler.probe import state_key
from tests.runtime.schedulers import TABLES, WARNINGS, Case, reason, seeded, table_of

pytestmark = WARNINGS


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
