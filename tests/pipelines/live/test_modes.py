"""The modes of torch that a call happens in: none of them reaches the next call, or changes a picture."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepcache_trt import DeepCachePipeline, DeepCacheSDHelper
from deepcache_trt.errors import UnsupportedError
from tests.pipelines import micro
from tests.pipelines.drawing import difference, python_between_steps
from tests.pipelines.weights import own_models

SD = micro.STRAIGHT["sd"]
STEPS = 5

MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "inference mode": torch.inference_mode,
    "no inference mode": lambda: torch.inference_mode(False),
    "no gradients": torch.no_grad,
    "gradients": torch.enable_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "no autocast": lambda: torch.autocast("cpu", enabled=False),
}


def cached(plain: Any, **options: Any) -> Any:
    return DeepCachePipeline.from_pipe(plain, **{**micro.engines(SD), "cache_interval": 2, **options})


def draw(pipe: Any, **call: Any) -> torch.Tensor:
    drawn = micro.draw(pipe, SD, num_inference_steps=STEPS, guidance_scale=5.0, **call)
    return drawn.detach().clone()


@pytest.mark.parametrize("callback", [None, python_between_steps], ids=["whole loop", "per step"])
@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
@pytest.mark.parametrize("mode", MODES)
def test_a_first_image_in_any_mode_is_the_same_as_every_later_one(mode: str, backend: str, callback: Any) -> None:
    plain = micro.with_own(SD, "unet")
    expected = draw(cached(plain, backend=backend), callback_on_step_end=callback)
    pipe = cached(plain, backend=backend)
    with MODES[mode]():
        first = draw(pipe, callback_on_step_end=callback)
    if mode != "autocast":  # which the pipeline's text encoder follows, in PyTorch
        assert torch.equal(first, expected)
    assert difference(first, expected) <= 0.1 * expected.abs().max()
    assert torch.equal(draw(pipe, callback_on_step_end=callback), expected)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(st.sampled_from([*MODES]), max_size=3), min_size=1, max_size=3))
def test_modes_within_one_another_in_any_order(images: list[list[str]]) -> None:
    pipe = PIPE
    for modes in images:
        with ExitStack() as stack:
            for mode in modes:
                stack.enter_context(MODES[mode]())
            image = draw(pipe)
        if "autocast" not in modes:
            assert torch.equal(image, EXPECTED)
    assert torch.equal(draw(pipe), EXPECTED)


@pytest.mark.parametrize("keep", [True, False])
def test_weights_that_were_loaded_under_inference_mode(keep: bool) -> None:
    expected = own_models.draw(own_models.fresh())
    with torch.inference_mode():
        plain = own_models.fresh()
    pipe = DeepCachePipeline.from_pipe(plain, cache_interval=1, backend="onnxruntime", keep_torch_weights=keep)
    for _ in range(2):
        assert difference(own_models.draw(pipe), expected) <= 1e-4
    with torch.inference_mode():
        plain.unet.conv_out.weight.mul_(2)
    assert difference(own_models.draw(pipe), own_models.draw(plain)) <= 1e-4


def test_a_gradient_through_an_engine_is_refused_and_all_else_is_called_as_ever() -> None:
    plain = micro.with_own(SD, "unet")
    sample, text = torch.randn(1, 4, 8, 8), torch.randn(1, 7, plain.unet.config.cross_attention_dim)
    plain.scheduler.set_timesteps(STEPS)
    expected = plain.unet(sample, 1, text).sample.detach()
    helper = DeepCacheSDHelper(plain, backend="onnxruntime")
    helper.enable()
    for asking in (
        {"sample": sample.clone().requires_grad_()},
        {"encoder_hidden_states": text.clone().requires_grad_()},
    ):
        call: dict[str, Any] = {"sample": sample, "timestep": 1, "encoder_hidden_states": text, **asking}
        with pytest.raises(UnsupportedError, match=rf"as {next(iter(asking))} requires one.*disable\(\) of the helper"):
            plain.unet(**call)
        with torch.no_grad():
            assert difference(plain.unet(**call).sample, expected) <= 1e-4
    assert difference(plain.unet(sample, 1, text).sample, expected) <= 1e-4
    helper.disable()
    sample.requires_grad_()
    assert plain.unet(sample, 1, text).sample.requires_grad


PIPE = cached(micro.with_own(SD, "unet"))
EXPECTED = draw(cached(PIPE))
