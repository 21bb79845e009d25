"""Offloading of diffusers moves torch weights about; engines have their own, so it is refused by name."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from deepcache_trt import DeepCachePipeline, DeepCacheSDHelper
from deepcache_trt.errors import UnsupportedError
from tests.pipelines.weights.own_models import draw, fresh

# On the CPU the hooks are installed as on a GPU, and move nothing.
OFFLOADS: dict[str, Callable[[Any], None]] = {
    "enable_model_cpu_offload": lambda pipe: pipe.enable_model_cpu_offload(device="cpu"),
    "enable_sequential_cpu_offload": lambda pipe: pipe.enable_sequential_cpu_offload(device="cpu"),
    "enable_group_offload": lambda pipe: pipe.enable_group_offload(
        onload_device=torch.device("cpu"), offload_type="leaf_level"
    ),
}
every_offload = pytest.mark.parametrize("name", OFFLOADS)


def cached(plain: Any, **options: Any) -> Any:
    return DeepCachePipeline.from_pipe(plain, cache_interval=1, backend="onnxruntime", **options)


@every_offload
@pytest.mark.parametrize("keep", [True, False])
def test_a_cached_pipeline_refuses_it_and_goes_on(name: str, keep: bool) -> None:
    pipe = cached(fresh(), keep_torch_weights=keep)
    expected = draw(pipe)
    with pytest.raises(UnsupportedError, match=rf"^{name}\(\) .*; leave it out, .*keep_torch_weights=.*components="):
        OFFLOADS[name](pipe)
    assert torch.equal(draw(pipe), expected)


@every_offload
def test_a_pipeline_that_has_it_is_refused(name: str) -> None:
    plain = fresh()
    OFFLOADS[name](plain)
    what = "group offload.*load the model without" if "group" in name else f"{name}.*remove_all_hooks"
    with pytest.raises(UnsupportedError, match=rf"the weights of unet are moved by .*{what}.*keep_torch_weights=False"):
        cached(plain)
    with pytest.raises(UnsupportedError, match="the weights of unet are moved by"):
        DeepCacheSDHelper(plain).enable()


@every_offload
def test_what_is_enabled_later_on_shared_models_is_refused_at_the_next_image(name: str) -> None:
    plain = fresh()
    pipe = cached(plain)
    draw(pipe)
    OFFLOADS[name](plain)
    with pytest.raises(UnsupportedError, match="the weights of unet are moved by"):
        draw(pipe)


def test_a_text_encoder_that_has_it_is_refused_where_it_is_to_run_on_engines() -> None:
    from accelerate import cpu_offload_with_hook

    plain = fresh()
    expected = draw(plain)
    cpu_offload_with_hook(plain.text_encoder, "cpu")
    with pytest.raises(UnsupportedError, match="the weights of text_encoder are moved by"):
        cached(plain)
    assert (draw(cached(plain, components=("vae",))) - expected).abs().max() <= 1e-4


# Hooks of the sequential one cannot be removed again on the CPU: accelerate fails on the tensors that they leave.
@pytest.mark.parametrize("keep", [True, False])
def test_plain_diffusers_in_between_may_have_it(keep: bool) -> None:
    plain = fresh()
    whole = draw(plain)
    pipe = cached(plain, keep_torch_weights=keep)
    expected = draw(pipe)
    pipe.disable_cache()
    OFFLOADS["enable_model_cpu_offload"](pipe)
    assert torch.equal(draw(pipe), whole)
    pipe.enable_cache()
    with pytest.raises(UnsupportedError, match="remove_all_hooks"):
        draw(pipe)
    pipe.remove_all_hooks()
    assert torch.equal(draw(pipe), expected)
