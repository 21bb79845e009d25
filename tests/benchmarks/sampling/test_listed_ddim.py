"""DDIM over listed timesteps: the lists, and every step against the paper's equations in numpy."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler

from deepcache_trt import DeepCachePipeline
from deepcache_trt.benchmarks.sampling.ddim import SKIP_TYPES, ListedDDIM, listed_ddim, listed_timesteps
from deepcache_trt.errors import DeepCacheError
from tests.pipelines.drawing import difference
from tests.pipelines.micro_parts import unet


def sampler(skip_type: str, steps: int, **options: Any) -> ListedDDIM:
    scheduler = listed_ddim(DDPMScheduler(**options), skip_type)
    scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize(
    ("skip_type", "trained", "steps", "listed"),
    [
        ("uniform", 1000, 4, [750, 500, 250, 0]),
        ("uniform", 10, 4, [8, 6, 4, 2, 0]),  # 10 // 4 = 2, and so one more than was asked for
        ("uniform", 3, 3, [2, 1, 0]),
        ("quad", 1000, 5, [800, 450, 200, 50, 0]),
        ("quad", 1000, 1, [0]),
        ("quad", 20, 8, [16, 11, 8, 5, 2, 1, 0]),  # 0.33 and 0 are one
    ],
)
def test_the_lists_are_those_of_the_papers_code(skip_type: str, trained: int, steps: int, listed: list[int]) -> None:
    assert listed_timesteps(skip_type, trained, steps) == listed


@pytest.mark.parametrize(
    ("skip_type", "steps", "message"),
    [
        ("quat", 5, r"unknown skip type 'quat' \(did you mean 'quad'\?\); there are uniform, quad"),
        ("quad", 0, r"0 steps are outside 1…1000"),
        ("uniform", 1001, r"1001 steps are outside 1…1000: the model was trained with 1000 timesteps"),
    ],
)
def test_what_is_no_list_is_refused(skip_type: str, steps: int, message: str) -> None:
    with pytest.raises(DeepCacheError, match=message):
        listed_timesteps(skip_type, 1000, steps)


def paper(x: np.ndarray, skip_type: str, steps: int, *, eta: float, noise: np.ndarray) -> np.ndarray:
    """Equations 12 and 16 of the DDIM paper in float64, with a model that says ε = sin(x) + t/1000."""
    alphas = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))])  # of timestep t at t + 1
    listed = listed_timesteps(skip_type, 1000, steps)
    for i, (t, following) in enumerate(zip(listed, [*listed[1:], -1], strict=True)):
        a, b = alphas[t + 1], alphas[following + 1]
        epsilon = np.sin(x) + t / 1000
        sigma = eta * np.sqrt((1 - b) / (1 - a) * (1 - a / b))
        x = np.sqrt(b) * (x - np.sqrt(1 - a) * epsilon) / np.sqrt(a) + np.sqrt(1 - b - sigma**2) * epsilon
        x += sigma * noise[i]
    return x


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("skip_type", SKIP_TYPES)
@pytest.mark.parametrize("steps", [3, 30])
def test_every_step_is_the_papers(skip_type: str, steps: int, eta: float) -> None:
    scheduler = sampler(skip_type, steps)
    start = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randn(len(scheduler.timesteps), *start.shape, generator=generator, dtype=torch.float64).numpy()
    expected = paper(start.numpy(), skip_type, steps, eta=eta, noise=drawn)
    generator.manual_seed(1)
    x = start
    for t in scheduler.timesteps:
        x = scheduler.step(torch.sin(x) + t / 1000, t, x, eta=eta, generator=generator).prev_sample
    assert np.abs(x.numpy() - expected).max() <= 1e-4 * np.abs(expected).max()  # ᾱ is float32 in diffusers


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_at_an_even_spacing_it_is_the_ddim_of_diffusers(kind: str) -> None:
    ours = sampler("uniform", 5, prediction_type=kind)
    theirs: Any = DDIMScheduler(prediction_type=kind, clip_sample=False)
    theirs.set_timesteps(5)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    x = y = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for t in ours.timesteps:
        x = ours.step(torch.sin(x), t, x).prev_sample
        y = theirs.step(torch.sin(y), t, y).prev_sample
    assert (x - y).abs().max() <= 1e-4 * y.abs().max()


def test_a_pipeline_on_engines_runs_it_in_the_whole_loop() -> None:
    def drawn(pipe: Any) -> Any:
        pipe.scheduler = listed_ddim(DDPMScheduler(), "quad")
        generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
        return pipe(batch_size=2, num_inference_steps=6, eta=0.5, generator=generators, output_type="pt").images

    plain: Any = DDIMPipeline(unet("ddpm"), DDIMScheduler())
    plain.set_progress_bar_config(disable=True)
    cached = DeepCachePipeline.from_pipe(plain, backend="onnxruntime", cache_interval=1)
    assert difference(drawn(cached), drawn(plain)) <= 1e-3
    assert cached.last_run.way == "whole loop", cached.last_run.reason
    assert len(cached.last_run.plan) == 6
