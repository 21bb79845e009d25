"""Latent diffusion of classes: a pipeline of ours, cached as those of diffusers are, and decoded from a codebook."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from deepcache_trt import DeepCachePipeline
from deepcache_trt import pipelines as classes
from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models.definitions.ldm import LDMClassToImagePipeline
from deepcache_trt.models.families.unet import unet_taps
from deepcache_trt.models.registry import architecture_of
from tests.pipelines.drawing import difference
from tests.pipelines.ldms import new_vqvae, plain, unet
from tests.reference import cached_by_hooks

STEPS, INTERVAL = 6, 3
LABELS = [3, 7]
SCHEDULERS = ["DDIMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler"]
BRANCHES = range(len(unet_taps(unet())))


def engines(pipe: Any, **options: Any) -> Any:
    return DeepCachePipeline.from_pipe(
        pipe, **{"cache_interval": 1, "backend": "onnxruntime", "components": (), **options}
    )


def draw(pipe: Any, *, labels: Sequence[int] = LABELS, seed: int = 0, steps: int = STEPS, **call: Any) -> torch.Tensor:
    """Final latents."""
    generator = torch.Generator().manual_seed(seed)
    call = {"guidance_scale": 3.0, "output_type": "latent", **call}
    images: torch.Tensor = pipe(labels, num_inference_steps=steps, generator=generator, **call).images
    return images


def per_step(pipe: Any, **call: Any) -> torch.Tensor:
    """A hook wants every call of the model."""
    handle = pipe.unet.register_forward_hook(lambda module, args, output: None)
    try:
        image = draw(pipe, **call)
    finally:
        handle.remove()
    assert pipe.last_run.way == "per step"
    return image


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert difference(found, expected) <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("scale", [3.0, 1.0], ids=["guided", "unguided"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_with_every_call_full_it_draws_what_the_pipeline_draws_without_engines(scheduler: str, scale: float) -> None:
    expected = draw(plain(scheduler), guidance_scale=scale)
    pipe = engines(plain(scheduler))
    assert_same(draw(pipe, guidance_scale=scale), expected)
    assert (pipe.last_run.way, pipe.last_run.reason) == ("whole loop", "")
    assert_same(per_step(pipe, guidance_scale=scale), expected)


@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_cached_it_draws_what_hooks_on_the_unet_draw(scheduler: str, branch: int) -> None:
    pipe, reference = engines(plain(scheduler), cache_interval=INTERVAL, cache_branch_id=branch), plain(scheduler)
    with cached_by_hooks(reference.unet, lambda call: call % INTERVAL == 0, branch=branch):
        expected = draw(reference)
    assert_same(draw(pipe), expected)
    assert pipe.last_run.way == "whole loop"
    assert set(pipe.last_run.runs) == {"full", "shallow"}
    assert_same(per_step(pipe), expected)


def test_caching_label_and_guidance_reach_the_picture() -> None:
    expected = draw(plain())
    assert difference(draw(engines(plain(), cache_interval=INTERVAL)), expected) > 1e-3
    assert difference(draw(plain(), labels=[3, 8]), expected) > 1e-3
    assert difference(draw(plain(), guidance_scale=4.0), expected) > 1e-3
    assert_same(draw(plain(), labels=[3, 8])[:1], expected[:1])


@torch.no_grad()
def test_the_pipeline_is_a_loop_of_ddim_with_guidance() -> None:
    """Rombach et al. 2022 with the guidance of Ho and Salimans 2021, written out."""
    pipe = plain()
    alphas = (1 - torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for i in reversed(range(STEPS)):
        t, before = i * (1000 // STEPS) + 1, (i - 1) * (1000 // STEPS) + 1
        a, a_before = (alphas[max(0, at)].item() for at in (t, before))
        without, with_class = (
            pipe.unet(x, t, pipe.class_embedder.embedding(torch.tensor(labels))[:, None]).sample
            for labels in ([10, 10], LABELS)
        )
        noise = without + 3.0 * (with_class - without)
        clean = (x - (1 - a) ** 0.5 * noise) / a**0.5
        x = a_before**0.5 * clean + (1 - a_before) ** 0.5 * noise
    assert_same(draw(pipe), x)


def test_calls_in_a_row_leave_nothing_behind() -> None:
    pipe = engines(plain(), cache_interval=INTERVAL)
    calls: list[dict[str, Any]] = [
        {},
        {"steps": 4, "guidance_scale": 1.0},
        {"labels": [1], "seed": 3, "eta": 0.5},
        {"labels": [7, 8, 9], "steps": 3},
        {"guidance_scale": 2.5},
        {},
    ]
    for call in calls:
        assert_same(draw(pipe, **call), draw(engines(plain(), cache_interval=INTERVAL), **call))
        assert not pipe.interrupt


def test_ddim_s_noise_is_drawn_from_the_generator() -> None:
    expected, pipe = draw(plain(), eta=0.7), engines(plain())
    assert_same(draw(pipe, eta=0.7), expected)
    assert pipe.last_run.way == "whole loop"
    assert_same(per_step(pipe, eta=0.7), expected)
    assert difference(draw(plain()), expected) > 1e-3


def test_the_decoder_runs_on_its_engine() -> None:
    expected, pipe = draw(plain(), output_type="pt"), engines(plain(), components=None)
    found = draw(pipe, output_type="pt")
    assert found.shape == (2, 3, 32, 32)
    assert_same(found, expected)
    assert pipe.last_run.seconds["vqvae"] > 0


@torch.no_grad()
@pytest.mark.parametrize("scaling_factor", [1.0, 0.5])
def test_it_decodes_what_diffusers_decodes(scaling_factor: float) -> None:
    pipe, model = plain(), new_vqvae()
    model.register_to_config(scaling_factor=scaling_factor)
    pipe.register_modules(vqvae=model)
    latents = torch.randn(3, 3, 8, 4, generator=torch.Generator().manual_seed(0))
    assert_same(pipe.decode(latents), model.decode(latents / scaling_factor).sample)
    assert difference(pipe.decode(latents + 1), pipe.decode(latents)) > 1e-3


@torch.no_grad()
def test_it_decodes_in_half_precision() -> None:
    """For which torch has no distances."""
    pipe = plain()
    latents = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = pipe.decode(latents)
    pipe.register_modules(vqvae=new_vqvae().to(torch.bfloat16))
    found = pipe.decode(latents.to(torch.bfloat16)).float()
    assert (found - expected).norm() <= 0.1 * expected.norm()


def test_a_saved_pipeline_is_loaded_by_its_class_and_by_ours(tmp_path: Path) -> None:
    pipe, expected = engines(plain(), cache_interval=INTERVAL), draw(plain())
    cached = draw(pipe)
    pipe.save_pretrained(tmp_path)
    loaded: Any = LDMClassToImagePipeline.from_pretrained(tmp_path)
    ours: Any = DeepCachePipeline.from_pretrained(tmp_path, cache_interval=INTERVAL, backend="onnxruntime")
    own_class = classes.__getattr__("DeepCacheLDMClassToImagePipeline")
    named = own_class.from_pretrained(tmp_path, backend="onnxruntime")
    for each in (loaded, ours, named):
        each.set_progress_bar_config(disable=True)
    assert type(loaded) is LDMClassToImagePipeline
    assert type(ours) is type(named) is type(pipe) is own_class
    assert_same(draw(loaded), expected)
    assert_same(draw(ours), cached)
    with pytest.raises(AttributeError, match="LDMClassToImagePipeline"):
        diffusers.DiffusionPipeline.from_pretrained(tmp_path)  # which knows no classes but its own


def test_a_label_that_is_no_class_is_refused() -> None:
    for label in (10, -1):
        with pytest.raises(ValueError, match=rf"{label} is no class; there are 0 to 9"):
            draw(plain(), labels=[3, label])


def test_a_decoder_of_another_kind_is_refused() -> None:
    model = new_vqvae()
    for changes, message in (({"norm_type": "spatial"}, "norm_type='spatial'"), ({"up_block_types": ["X"]}, "with X")):
        model.register_to_config(**{"norm_type": "group", **changes})
        with pytest.raises(UnsupportedError, match=f"{message} is not covered"):
            architecture_of(model, dtype="float32")
