"""Cached pipelines without some components, with a safety checker, and on other devices and in other precisions."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessor

from deepcache_trt import DeepCachePipeline
from deepcache_trt.errors import DeepCacheError
from tests.pipelines.contract.families import (
    FAMILIES,
    FEW,
    WITHIN,
    drawn,
    embeddings,
    on_engines,
)
from tests.pipelines.drawing import difference
from tests.pipelines.micro import draw


def _missing(name: str, *parts: str) -> tuple[Any, Any]:
    """A pipeline of diffusers without some components, and the cached one."""
    pipe = FAMILIES[name].new(**dict.fromkeys(parts))
    return pipe, DeepCachePipeline.from_pipe(pipe, cache_interval=1, backend="onnxruntime", components=("unet",))


WITHOUT = {
    "sd": ("text_encoder", "tokenizer"),
    "sdxl": ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"),
    "sd controlnet": ("text_encoder", "tokenizer"),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_without_text_encoders_it_takes_embeddings(name: str) -> None:
    call: dict[str, Any] = {"prompt": None, **embeddings(name), "num_inference_steps": FEW}
    theirs, ours = _missing(name, *WITHOUT[name])
    assert difference(draw(ours, FAMILIES[name], **call), draw(theirs, FAMILIES[name], **call)) <= WITHIN


@pytest.mark.parametrize("name", WITHOUT)
def test_without_a_vae_it_draws_latents(name: str) -> None:
    theirs, ours = _missing(name, "vae")
    call = {"num_inference_steps": FEW}
    assert difference(draw(ours, FAMILIES[name], **call), draw(theirs, FAMILIES[name], **call)) <= WITHIN


@pytest.mark.parametrize("flags", [True, False])
def test_a_safety_checker_sees_the_picture(flags: bool) -> None:
    small = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 1, "num_attention_heads": 4}
    vision = {**small, "image_size": 32, "patch_size": 16, "projection_dim": 32}
    config = CLIPConfig.from_dict({"text_config": small, "vision_config": vision, "projection_dim": 32})
    checker = StableDiffusionSafetyChecker(config).eval()
    torch.nn.init.constant_(checker.concept_embeds_weights, -2.0 if flags else 2.0)  # thresholds of a cosine
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    plain = FAMILIES["sd"].new(safety_checker=checker, feature_extractor=processor)
    for pipe in (plain, DeepCachePipeline.from_pipe(plain, backend="onnxruntime", components=())):
        call = {**FAMILIES["sd"].call, "num_inference_steps": FEW, "output_type": "np"}
        output = pipe(**call, generator=torch.Generator().manual_seed(0))
        assert output.nsfw_content_detected == [flags]
        assert np.any(output.images) != flags, "what it flags is black"


def _own(name: str) -> tuple[Any, Any]:
    """A pipeline of diffusers with models of its own, and the cached one on the same models."""
    pipe = FAMILIES[name].new()
    parts = {part: copy.deepcopy(model) for part, model in pipe.components.items()}
    pipe = FAMILIES[name].new(**parts)
    return pipe, DeepCachePipeline.from_pipe(pipe, cache_interval=1, backend="onnxruntime", components=())


def test_moving_it_returns_itself_and_changes_nothing() -> None:
    before = drawn("sd")
    assert on_engines("sd").to("cpu") is on_engines("sd")
    assert torch.equal(drawn("sd"), before)


@pytest.mark.parametrize(
    ("dtype", "cure"),
    [(torch.float64, r"the weights of unet are float64.*pipe\.to\(torch\.float32\)"), (torch.bfloat16, "use float32")],
)
def test_a_precision_that_engines_lack_is_refused_and_the_way_back_is_open(dtype: torch.dtype, cure: str) -> None:
    theirs, ours = _own("sd")
    ours.to(dtype)
    with pytest.raises(DeepCacheError, match=cure):
        draw(ours, FAMILIES["sd"], num_inference_steps=FEW)
    ours.to(torch.float32)
    pictures = [draw(pipe, FAMILIES["sd"], num_inference_steps=FEW) for pipe in (theirs, ours)]
    assert difference(*pictures) <= WITHIN


@pytest.mark.slow  # it exports another graph
def test_engines_follow_a_cast_and_the_way_back() -> None:
    theirs, ours = _own("sd")
    for dtype, within in ((torch.float16, 0.1), (torch.float32, WITHIN)):
        ours.to(dtype)
        pictures = [draw(pipe, FAMILIES["sd"], num_inference_steps=FEW) for pipe in (theirs, ours)]
        assert {picture.dtype for picture in pictures} == {dtype}
        assert difference(*pictures) <= within
