"""DDPM and DDIM: a U-Net without a prompt, with or without classes."""

import functools
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, UNet2DModel

from deepcache_trt import DeepCachePipeline, DeepCacheSDHelper
from deepcache_trt.errors import UnsupportedError
from tests.pipelines.drawing import difference
from tests.pipelines.micro_parts import unet
from tests.reference import cached_by_hooks

CLASSES = torch.tensor([3, 7])


@functools.cache
def of_classes() -> Any:
    config = {name: value for name, value in unet("ddpm").config.items() if not name.startswith("_")}
    torch.manual_seed(0)
    model: Any = UNet2DModel(**config | {"num_class_embeds": 10})
    return model.eval()


def pipeline() -> Any:
    return DDPMPipeline(of_classes(), DDIMScheduler(clip_sample=False, prediction_type="sample"))


@torch.no_grad()
def sample(pipe: Any, classes: torch.Tensor) -> torch.Tensor:
    """What a loop of one's own makes of the U-Net and the scheduler: diffusers has no pipeline with class labels."""
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pipe.scheduler.set_timesteps(5)
    for t in pipe.scheduler.timesteps:
        prediction = pipe.unet(images, t, class_labels=classes).sample
        images = pipe.scheduler.step(prediction, t, images).prev_sample
    return images


@pytest.mark.parametrize("interval", [1, 2])
def test_classes_are_an_input_of_the_graph(interval: int) -> None:
    cached, reference = pipeline(), pipeline()
    with cached_by_hooks(reference.unet, lambda call: call % interval == 0):
        expected = sample(reference, CLASSES)
    helper = DeepCacheSDHelper(cached, backend="onnxruntime")
    helper.set_params(cache_interval=interval)
    helper.enable()
    try:
        assert difference(sample(cached, CLASSES), expected) <= 1e-4
        assert difference(sample(cached, CLASSES.flip(0)), expected) > 1e-3
    finally:
        helper.disable()
    assert (difference(sample(reference, CLASSES), expected) > 1e-3) == (interval > 1)


def test_a_pipeline_that_gives_no_classes_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="UNet2DModel is called without class_labels, which its graph takes"):
        DeepCachePipeline.from_pipe(pipeline())(num_inference_steps=1)
