"""A router draws, in both ways and with a ControlNet, what hooks on the model draw that reuse the same taps."""

from dataclasses import replace

import pytest
import torch

from deepcache_trt import DeepCachePipeline
from deepcache_trt.errors import DeepCacheError, UnknownNameError
from deepcache_trt.runtime.plan import FULL
from deepcache_trt.runtime.policies import DeepCache, Router
from tests import tiny
from tests.pipelines.drawing import python_between_steps
from tests.pipelines.micro import OTHERS, STRAIGHT, cached, draw
from tests.reference import cached_by_policy

TEXT, CONTROLLED = STRAIGHT["sd"], OTHERS["sd controlnet"]
STEPS = 8
ROUTER = Router(masks=("11", "01", "00", "01"))


@pytest.mark.parametrize(("backend", "forecast"), [("onnxruntime", None), ("onnxruntime", "taylor1"), ("torch", None)])
def test_a_router_draws_what_hooks_on_the_model_draw(backend: str, forecast: str | None) -> None:
    router = replace(ROUTER, forecast=forecast)
    pipe = cached(TEXT, policy=router, backend=backend)
    whole = draw(pipe, TEXT, num_inference_steps=STEPS)
    assert pipe.last_run.way == "whole loop"
    assert pipe.last_run.plan.variants == (FULL, "mask_0", FULL, "mask_1", FULL, FULL, FULL, "mask_1")
    per_step = draw(pipe, TEXT, num_inference_steps=STEPS, callback_on_step_end=python_between_steps)
    assert pipe.last_run.way == "per step"
    plain = TEXT.new()
    with cached_by_policy(plain.unet, router, STEPS):
        expected = draw(plain, TEXT, num_inference_steps=STEPS)
    for image in (whole, per_step):
        assert (image - expected).abs().max() < 1e-4 * expected.abs().max()
    assert not torch.allclose(draw(TEXT.new(), TEXT, num_inference_steps=STEPS), whole, rtol=1e-3)


@pytest.mark.parametrize(("mask", "branch", "forecast"), [("11", 0, None), ("01", 1, None), ("11", 0, "taylor1")])
def test_the_same_mask_at_every_pair_is_deepcache_at_that_branch(mask: str, branch: int, forecast: str | None) -> None:
    router = Router(masks=(mask,) * 4, forecast=forecast)
    deepcache = DeepCache(cache_interval=2, cache_branch_id=branch, forecast=forecast)
    found, expected = (
        draw(cached(TEXT, policy=policy), TEXT, num_inference_steps=STEPS) for policy in (router, deepcache)
    )
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_a_controlnet_follows_a_router() -> None:
    image = draw(cached(CONTROLLED, policy=ROUTER), CONTROLLED, num_inference_steps=STEPS)
    plain = CONTROLLED.new()
    with cached_by_policy(plain.unet, ROUTER, STEPS):
        expected = draw(plain, CONTROLLED, num_inference_steps=STEPS)
    assert (image - expected).abs().max() < 1e-4 * expected.abs().max()


def test_a_router_of_another_model_or_count_of_steps_is_refused() -> None:
    pipe = cached(TEXT, policy=ROUTER)
    with pytest.raises(DeepCacheError, match="router is for 8 calls of the model, and there are 6; draw with as many"):
        draw(pipe, TEXT, num_inference_steps=6)
    with pytest.raises(UnknownNameError, match="this router is for 12 taps, and there are 2: it is another model's"):
        pipe.set_cache_params(policy=Router(masks=("1" * 12,)))
    assert pipe.policy == ROUTER
    draw(pipe, TEXT, num_inference_steps=STEPS)


@pytest.mark.slow
def test_the_digits_are_drawn_by_a_router_of_their_unet() -> None:
    router = Router(masks=("0" * 4 + "1" * 8, "001011000011", "1" * 12, "0" * 12, "0" * 11 + "1"))
    call = {"prompt": ["a handwritten seven", "two"], "num_inference_steps": 10, "output_type": "pt"}
    plain = tiny.digits()
    with cached_by_policy(plain.unet, router, 10):
        expected = plain(generator=torch.Generator().manual_seed(0), **call).images
    pipe = DeepCachePipeline.from_pipe(tiny.digits(), policy=router, backend="onnxruntime")
    found = pipe(generator=torch.Generator().manual_seed(0), **call).images
    assert (found - expected).abs().max() < 1e-3
