"""Text2Video-Zero: frames that attend to the first one, and several backward loops of which each is a generation."""

import copy
import inspect
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler

from deepcache_trt import DeepCachePipeline, DeepCacheSDHelper
from deepcache_trt.builder.component import from_model
from deepcache_trt.builder.graphs import graph_key
from deepcache_trt.models.structure import structure_of
from tests.pipelines import micro, micro_parts
from tests.pipelines.coverage.rows import VIDEOS_OF_IMAGES
from tests.pipelines.drawing import difference
from tests.reference import cached_by_hooks

# What the pipelines call without saying which of two behaviours they want.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Default grid_sample and affine_grid behavior:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning"),
]

STEPS = 9
INTERVAL = 3


def new(name: str) -> Any:
    """A plain pipeline; the U-Net is its own, since attention between the frames of a batch stays in it."""
    pipeline = getattr(diffusers, VIDEOS_OF_IMAGES[name])
    taken = inspect.signature(pipeline.__init__).parameters
    parts = {part: model for part, model in micro_parts.components_of(name).items() if part in taken}
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False)
    unchecked = {"requires_safety_checker": False} if name == "sd" else {}
    pipe = pipeline(**{**parts, **unchecked, "unet": copy.deepcopy(micro_parts.unet(name)), "scheduler": scheduler})
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module", params=VIDEOS_OF_IMAGES)
def name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def plain(name: str) -> Any:
    return new(name)


@pytest.fixture(scope="module")
def cached(plain: Any) -> Any:
    return DeepCachePipeline.from_pipe(plain, backend="onnxruntime", components=())


def draw(pipe: Any, *, seed: int = 0, frames: int = 3, t0: int = 2, t1: int = 4, **call: Any) -> torch.Tensor:
    """Latents of a video, [frames, 4, 8, 8] float32."""
    generator = torch.Generator().manual_seed(seed)
    call = {"height": 64, "width": 64, "num_inference_steps": STEPS, "output_type": "latent", **call}
    video = pipe("a handwritten seven", video_length=frames, t0=t0, t1=t1, generator=generator, **call)
    latents: torch.Tensor = video.images
    return latents


def full_in_each_loop(t0: int, t1: int) -> Callable[[int], bool]:
    """Which calls of the U-Net are full: every third of each of the three loops, the first one always."""
    lengths = [STEPS - t1 - 1, t1 - t0, t1 + 1]
    full = [i % INTERVAL == 0 for length in lengths for i in range(length)]
    return full.__getitem__


@pytest.mark.parametrize("frames", [2, 3])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_interval_1_is_plain_diffusers(plain: Any, cached: Any, frames: int, seed: int) -> None:
    cached.set_cache_params(cache_interval=1)
    found = draw(cached, frames=frames, seed=seed)
    assert difference(found, draw(plain, frames=frames, seed=seed)) <= 1e-4
    assert difference(found[:1].expand_as(found[1:]), found[1:]) > 1e-2
    assert cached.last_run.way == "per step"


@pytest.mark.parametrize(("frames", "t0", "t1"), [(2, 2, 4), (3, 2, 4), (3, 1, 6), (2, 3, 4)])
def test_each_backward_loop_starts_in_full(name: str, plain: Any, cached: Any, frames: int, t0: int, t1: int) -> None:
    call = {"frames": frames, "t0": t0, "t1": t1}
    cached.set_cache_params(cache_interval=INTERVAL)
    with cached_by_hooks(plain.unet, full_in_each_loop(t0, t1)):
        expected = draw(plain, **call)
    found = draw(cached, **call)
    assert difference(found, expected) <= 1e-4
    assert difference(found, draw(plain, **call)) > 1e-3
    assert len(cached.last_run.plan) == t1 + 1
    assert torch.equal(draw(cached, **call), found)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # of modules that torch's compiler imports
@pytest.mark.parametrize("backend", ["openvino", "torch", pytest.param("torch-compile", marks=pytest.mark.slow)])
def test_other_backends_draw_the_same(backend: str, plain: Any, cached: Any) -> None:
    cached.set_cache_params(cache_interval=INTERVAL)
    other = DeepCachePipeline.from_pipe(plain, backend=backend, components=(), cache_interval=INTERVAL)
    assert difference(draw(other), draw(cached)) <= 1e-4


def test_the_helper_listens_to_the_loops_too() -> None:
    plain = new("sd")
    helper = DeepCacheSDHelper(plain, backend="onnxruntime")
    helper.set_params(cache_interval=INTERVAL)
    helper.enable()
    try:
        found = draw(plain)
    finally:
        helper.disable()
    assert "backward_loop" not in vars(plain)
    with cached_by_hooks(plain.unet, full_in_each_loop(2, 4)):
        assert difference(found, draw(plain)) <= 1e-4


def test_the_u_net_serves_other_pipelines_before_and_after() -> None:
    """It is the same one: the graph with attention across frames is never taken for its own, or the other way round."""
    image = micro.STRAIGHT["sd"]
    pipe = micro.cached(image, cache_interval=1)
    expected = micro.draw(image.new(), image, num_inference_steps=STEPS)
    video = DeepCachePipeline.from_pipe(new("sd"), backend="onnxruntime", components=(), cache_interval=1)
    for _ in range(2):
        assert difference(micro.draw(pipe, image, num_inference_steps=STEPS), expected) <= 1e-4
        assert difference(draw(video), draw(new("sd"))) <= 1e-4


def test_how_many_videos_a_processor_expects_is_part_of_the_graph_s_key() -> None:
    from diffusers.models.attention_processor import AttnProcessor2_0
    from diffusers.pipelines.deprecated.text_to_video_synthesis.pipeline_text_to_video_zero import (
        CrossFrameAttnProcessor2_0,
    )

    unet, keys = copy.deepcopy(micro_parts.unet("sd")), []
    for processor in (AttnProcessor2_0(), *(CrossFrameAttnProcessor2_0(batch_size=size) for size in (1, 2, 2))):
        unet.set_attn_processor(processor)
        keys.append(graph_key(from_model(unet, name="", part="unet")))
    unet.set_attn_processor(AttnProcessor2_0())
    assert not structure_of(unet)
    assert len(set(keys)) == 3
    assert keys[2] == keys[3]
