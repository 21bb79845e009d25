"""Pipelines on segments draw what they draw on whole variants, whatever the policy."""

from typing import Any

import pytest
import torch

from deepcache_trt.errors import UnsupportedError
from deepcache_trt.runtime.policies import Adaptive, DeepCache, Policy
from tests.pipelines.drawing import python_between_steps
from tests.pipelines.micro import MICROS, OTHERS, STRAIGHT, cached, draw

TEXT = STRAIGHT["sd"]
STEPS = 7
POLICIES: dict[str, Policy] = {
    "cached": DeepCache(cache_interval=3),
    "deeper": DeepCache(cache_interval=3, cache_branch_id=1),
    "extrapolated, skipped": DeepCache(cache_interval=4, skip_interval=2, forecast="taylor1"),
    "adaptive": Adaptive(threshold=0.6, skip_threshold=0.12),
}


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_segments_draw_what_whole_variants_draw(policy: Policy, backend: str) -> None:
    whole = cached(TEXT, policy=policy, backend=backend)
    expected = draw(whole, TEXT, num_inference_steps=STEPS)
    pipe = cached(TEXT, policy=policy, backend=backend, segments=True)
    ways: list[dict[str, Any]] = [{}, {"callback_on_step_end": python_between_steps}]
    for options in ways:
        image = draw(pipe, TEXT, num_inference_steps=STEPS, **options)
        assert (image - expected).abs().max() <= 1e-5 * expected.abs().max()
        assert pipe.last_run.plan == whole.last_run.plan
    assert [*pipe._cached_denoiser.session.engines] == ["head", f"tap_{getattr(policy, 'cache_branch_id', 0)}", "tail"]


@pytest.mark.parametrize("name", ["sdxl", "svd", "ddpm", "sd controlnets"])
def test_every_kind_of_denoiser_runs_on_segments(name: str) -> None:
    micro = MICROS[name]
    expected = draw(cached(micro, cache_interval=2), micro, num_inference_steps=4)
    pipe = cached(micro, cache_interval=2, segments=True)
    image = draw(pipe, micro, num_inference_steps=4)
    assert (image - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_branch_can_change_within_a_generation_and_nothing_is_loaded() -> None:
    pipe = cached(TEXT, policy=DeepCache(cache_interval=2), segments=True)
    draw(pipe, TEXT, num_inference_steps=4)
    assert pipe.last_run.opened == {"unet": 1}
    sizes: list[dict[str, Any]] = [{}, {"height": 96}, {}]
    for size in sizes:
        draw(pipe, TEXT, num_inference_steps=4, **size)
        assert pipe.last_run.opened == {}


def test_where_the_model_itself_runs_there_are_no_segments() -> None:
    pipe = cached(TEXT, backend="torch", segments=True)
    with pytest.raises(
        UnsupportedError, match="backend 'torch' runs the model itself, whose weights all variants share"
    ):
        draw(pipe, TEXT, num_inference_steps=2)


def test_a_controlnet_has_segments_of_its_own() -> None:
    micro = OTHERS["sd controlnet"]
    pipe = cached(micro, cache_interval=2, segments=True)
    image = draw(pipe, micro, num_inference_steps=4)
    expected = draw(cached(micro, cache_interval=2), micro, num_inference_steps=4)
    assert torch.allclose(image, expected, rtol=1e-4, atol=1e-5)
    (net,) = pipe._live_components
    assert "tap_condition" in net.session.engines
