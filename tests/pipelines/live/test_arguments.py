"""An argument of which no picture can come is refused by its name, at once; the pipeline draws as before."""

import inspect
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from deepcache_trt import DeepCachePipeline
from deepcache_trt.runtime.policies.uncached import Uncached
from tests.pipelines import dits, micro

HUGE = st.integers(min_value=10**9, max_value=10**40)
NO_NUMBER = st.one_of(st.just(math.nan), st.just(math.inf), st.text(max_size=8), st.none(), st.binary(max_size=3))
NO_COUNT = st.one_of(NO_NUMBER, st.integers(-(10**40), -1), st.floats(0.1, 0.9), st.booleans(), st.just([2]), HUGE)
# What is negative, or between whole numbers, is a guidance as well.
NO_GUIDANCE = st.one_of(NO_NUMBER, HUGE, st.just([7.5]), st.just(np.float32("nan")), st.just(torch.tensor(math.nan)))
NO_TENSOR = st.one_of(
    st.text(max_size=8),
    st.just(np.zeros((1, 4, 8, 8))),
    st.sampled_from(["meta", "sparse", "complex", "empty"]).map(lambda kind: bad_tensor(kind)),
)


def bad_tensor(kind: str) -> torch.Tensor:
    whole = torch.zeros(1, 4, 8, 8)
    match kind:
        case "meta":
            return whole.to("meta")
        case "sparse":
            return whole.to_sparse()
        case "complex":
            return whole.to(torch.complex64)
    return whole[:0]


BAD: dict[str, SearchStrategy[Any]] = {
    "prompt": st.one_of(
        st.integers(),
        st.binary(),
        st.just([]),
        st.lists(st.one_of(st.none(), st.integers(), st.just([])), min_size=1, max_size=3),
        st.text(st.characters(categories=["Cs"]), min_size=1),
    ),
    "negative_prompt": st.one_of(st.integers(), st.just([]), st.just([None])),
    "height": NO_COUNT.filter(lambda value: value is not None),
    "width": NO_COUNT.filter(lambda value: value is not None),
    "num_inference_steps": NO_COUNT,
    "num_images_per_prompt": NO_COUNT,
    "batch_size": NO_COUNT,
    "clip_skip": st.one_of(st.integers(-5, -1), HUGE, st.just(1.5), st.just("1")),
    "guidance_scale": NO_GUIDANCE,
    "guidance_rescale": NO_GUIDANCE,
    "eta": st.one_of(NO_GUIDANCE, st.floats(1.01, 100), st.floats(-100, -0.01)),
    "strength": st.one_of(NO_GUIDANCE, st.floats(1.01, 100), st.floats(-100, -0.01)),
    "num_frames": NO_COUNT.filter(lambda value: value is not None),
    # As many frames at once as there are is what a larger number means.
    "decode_chunk_size": st.one_of(st.integers(-(10**40), -1), st.floats(0.1, 0.9), st.booleans(), st.just([2])),
    **dict.fromkeys(
        ("min_guidance_scale", "max_guidance_scale", "noise_aug_strength", "controlnet_conditioning_scale"), NO_NUMBER
    ),
    "generator": st.one_of(st.integers(), st.text(max_size=3), st.just([]), st.just([None])),
    "latents": NO_TENSOR,
    "class_labels": st.one_of(
        st.just([]), st.lists(st.one_of(st.integers(1001, 10**40), st.integers(-(10**40), -1)), min_size=1, max_size=2)
    ),
    "cross_attention_kwargs": st.one_of(st.integers(1, 9), st.just({"scale": math.nan}), st.just({"unheard": 1})),
    "callback_on_step_end": st.one_of(st.integers(), st.text(max_size=3)),
    "callback_on_step_end_tensor_inputs": st.one_of(st.integers(), st.just([7])),
}


KINDS = {
    name: micro.MICROS[name] for name in ("sd", "sdxl", "ddim", "sd img2img", "sd inpaint", "sd controlnet", "svd")
}


def of_classes() -> tuple[Any, dict[str, Any]]:
    pipe = DeepCachePipeline.from_pipe(dits.plain(), backend="onnxruntime", policy=Uncached(), components=())
    return pipe, {"class_labels": [3], "output_type": "np"}


@pytest.mark.parametrize("kind", ["dit", *sorted(KINDS)])
def test_bad_arguments_are_refused_by_name_within_a_second(
    kind: str, record_property: Callable[[str, object], None]
) -> None:
    pipe, good = of_classes() if kind == "dit" else (micro.cached(KINDS[kind], cache_interval=2), KINDS[kind].call)
    pipe.set_progress_bar_config(disable=True)
    good = {**good, "num_inference_steps": 2}

    def draw(**changes: Any) -> Any:
        drawn = pipe(**{**good, "generator": torch.Generator().manual_seed(0), **changes})
        return drawn.frames if hasattr(drawn, "frames") else drawn.images

    before, tried = draw(), list[str]()
    names = sorted(set(BAD) & set(inspect.signature(type(pipe).__call__).parameters))

    @settings(max_examples=80, deadline=None)
    @given(bad=st.sampled_from(names).flatmap(lambda name: st.tuples(st.just(name), BAD[name])))
    def every_bad_argument(bad: tuple[str, Any]) -> None:
        name, value = bad
        started = time.process_time()
        with pytest.raises((ValueError, TypeError), match=name):
            draw(**{name: value})
        assert time.process_time() - started < 1
        tried.append(name)

    every_bad_argument()
    record_property("hostile inputs refused", len(tried))
    assert np.array_equal(draw(), before)


def test_what_diffusers_follows_is_followed() -> None:
    kind = micro.STRAIGHT["sd"]
    plain, pipe, good = kind.new(), micro.cached(kind, cache_interval=1), kind.call
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    followed: dict[str, dict[str, Any]] = {
        "a long prompt": {"prompt": "seven " * 20_000},
        "a zero character": {"prompt": "a\0b"},
        "whole sides": {"height": 64.0, "width": np.int64(64)},
        "other strides": {"latents": latents.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)},
        "one number repeated": {"latents": torch.ones(1, 1, 1, 1).expand(1, 4, 8, 8)},
        "whole numbers": {"latents": (latents * 3).int()},
        "negative guidance": {"guidance_scale": -2.0},
        "a tensor of one number": {"guidance_scale": torch.tensor(3.0)},
    }
    for what, arguments in followed.items():
        call = {"latents": latents, **good, **arguments, "num_inference_steps": 2}
        np.testing.assert_allclose(pipe(**call).images, plain(**call).images, atol=1e-4, err_msg=what)
