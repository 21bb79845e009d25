"""A cached pipeline is an ordinary diffusers pipeline to everything that handles one."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import DeepCache
import diffusers
import pytest
import torch
from diffusers import (
    DDPMPipeline,
    DDPMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
)

import deepcache_trt.pipelines
from deepcache_trt import DeepCachePipeline, DeepCacheSDHelper
from tests import tiny
from tests.pipelines.drawing import difference, draw


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_it_is_an_instance_of_the_class_that_diffusers_would_return(name: str) -> None:
    plain = tiny.PIPELINES[name]()
    cached = DeepCachePipeline.from_pipe(plain)
    assert isinstance(cached, type(plain))
    assert type(cached) is getattr(deepcache_trt.pipelines, f"DeepCache{type(plain).__name__}")
    assert cached.unet is plain.unet
    assert isinstance(cached, DeepCachePipeline)


def test_the_original_pipeline_stays_plain() -> None:
    plain = tiny.stable_diffusion()
    before = draw(plain)
    cached = DeepCachePipeline.from_pipe(plain, cache_interval=3)
    assert difference(draw(cached), before) > 1e-3
    assert torch.equal(draw(plain), before)
    assert type(plain) is StableDiffusionPipeline


def test_a_cached_pipeline_can_be_cached_again_with_other_parameters() -> None:
    plain = tiny.stable_diffusion()
    first = DeepCachePipeline.from_pipe(plain, cache_interval=2)
    second = DeepCachePipeline.from_pipe(first, cache_interval=4)
    assert (first.cache_params.cache_interval, second.cache_params.cache_interval) == (2, 4)
    assert torch.equal(draw(second), draw(DeepCachePipeline.from_pipe(plain, cache_interval=4)))


def test_from_pretrained_takes_our_options_and_those_of_diffusers(tmp_path: Path) -> None:
    plain = tiny.stable_diffusion()
    plain.save_pretrained(tmp_path)
    cached = DeepCachePipeline.from_pretrained(tmp_path, cache_interval=3, cache_branch_id=1, dtype=torch.float32)
    cached.set_progress_bar_config(disable=True)
    assert cached.cache_params.cache_branch_id == 1
    again = DeepCachePipeline.from_pipe(plain, cache_interval=3, cache_branch_id=1)
    assert torch.equal(draw(cached), draw(again))


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_either_name_of_the_precision_is_taken_with_the_warnings_of_diffusers_alone(name: str, tmp_path: Path) -> None:
    tiny.stable_diffusion().save_pretrained(tmp_path)

    def warned(pipeline_class: Any) -> list[tuple[type, str]]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pipe = pipeline_class.from_pretrained(tmp_path, use_safetensors=True, **{name: torch.float16})
            assert pipe.unet.dtype == torch.float16
            assert pipeline_class.from_pipe(pipe, **{name: torch.bfloat16}).unet.dtype == torch.bfloat16
        return [(each.category, str(each.message)) for each in caught]

    assert warned(DeepCachePipeline) == warned(StableDiffusionPipeline)


def test_disable_and_enable_cache() -> None:
    plain = tiny.stable_diffusion()
    cached = DeepCachePipeline.from_pipe(plain, cache_interval=3)
    with_cache = draw(cached)
    cached.disable_cache()
    assert torch.equal(draw(cached), draw(plain))
    cached.enable_cache()
    assert torch.equal(draw(cached), with_cache)


def test_concrete_classes_have_importable_names_and_pickle_by_them() -> None:
    from deepcache_trt.pipelines import DeepCacheStableDiffusionXLPipeline as Imported

    assert issubclass(Imported, diffusers.StableDiffusionXLPipeline)
    assert pickle.loads(pickle.dumps(Imported)) is Imported
    with pytest.raises(AttributeError, match="DeepCacheNoSuchPipeline"):
        _ = deepcache_trt.pipelines.DeepCacheNoSuchPipeline  # type: ignore[attr-defined]  # which is the point


def test_the_call_keeps_its_signature() -> None:
    import inspect

    cached = DeepCachePipeline.from_pipe(tiny.stable_diffusion())
    assert inspect.signature(type(cached).__call__) == inspect.signature(StableDiffusionPipeline.__call__)


def _image_to_image(pipe: Any) -> torch.Tensor:
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    latents: torch.Tensor = pipe("seven", image=image, strength=0.8, **_call()).images
    return latents


def _inpaint(pipe: Any) -> torch.Tensor:
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 32:] = 1
    latents: torch.Tensor = pipe("seven", image=image, mask_image=mask, height=64, width=64, **_call()).images
    return latents


def _call() -> dict[str, Any]:
    return {
        "num_inference_steps": 6,
        "generator": torch.Generator().manual_seed(1),
        "output_type": "latent",
    }


@pytest.mark.parametrize(
    ("pipeline_class", "source", "edit"),
    [
        (StableDiffusionImg2ImgPipeline, tiny.stable_diffusion, _image_to_image),
        (StableDiffusionInpaintPipeline, tiny.stable_diffusion, _inpaint),
        (StableDiffusionXLImg2ImgPipeline, tiny.stable_diffusion_xl, _image_to_image),
    ],
)
def test_other_pipelines_work_through_the_helper(pipeline_class: Any, source: Any, edit: Any) -> None:
    pipe = pipeline_class.from_pipe(source(), dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    expected = edit(pipe)
    helper = DeepCacheSDHelper(pipe=pipe)
    helper.enable()
    assert difference(edit(pipe), expected) <= 1e-4
    helper.set_params(cache_interval=2)
    assert difference(edit(pipe), expected) > 1e-3
    helper.disable()
    assert torch.equal(edit(pipe), expected)


@pytest.mark.parametrize("branch", [0, 4])
def test_the_helper_shows_what_was_set_as_the_package_does(branch: int) -> None:
    theirs, ours = DeepCache.DeepCacheSDHelper(), DeepCacheSDHelper()
    for helper in (theirs, ours):
        helper.set_params(cache_interval=5, cache_branch_id=branch)
    assert ours.params == theirs.params


def test_unconditional_pipelines_work_through_the_helper() -> None:
    pipe: Any = DDPMPipeline(tiny.denoiser("ddpm"), DDPMScheduler())
    pipe.set_progress_bar_config(disable=True)

    def sample() -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.from_numpy(pipe(generator=generator, num_inference_steps=5, output_type="np").images)

    expected = sample()
    helper = DeepCacheSDHelper(pipe=pipe)
    helper.enable()
    assert difference(sample(), expected) <= 1e-4
    helper.disable()
