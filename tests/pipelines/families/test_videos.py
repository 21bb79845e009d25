"""Stable Video Diffusion: as many frames as the call wants, decoded in chunks of any size."""

import functools
from typing import Any

import pytest
import torch

from deepcache_trt.errors import NotBuiltError, ShapeError, UnsupportedError
from deepcache_trt.models.calls import tensors_from_call
from deepcache_trt.models.registry import architecture_of
from tests import tiny
from tests.pipelines.drawing import difference
from tests.pipelines.micro import STRAIGHT, cached, draw
from tests.reference import cached_by_hooks

SVD = STRAIGHT["svd"]
FRAMES = 3  # in the U-Net's config


def video(pipe: Any, **call: Any) -> torch.Tensor:
    """[1, frames, 3, H, W] in [0, 1]."""
    return draw(pipe, SVD, num_inference_steps=3, **{"output_type": "pt", **call})


@functools.cache
def plain(**call: Any) -> torch.Tensor:
    return video(SVD.new(), **call)


@functools.cache
def with_decoder(backend: str) -> Any:
    return cached(SVD, backend=backend, components=("vae",), cache_interval=1)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("chunk", [1, 2, 3, None])
def test_frames_decoded_in_chunks_are_those_of_diffusers(backend: str, chunk: int | None) -> None:
    found = video(with_decoder(backend), decode_chunk_size=chunk)
    assert difference(found, plain(decode_chunk_size=chunk)) <= 1e-4
    assert with_decoder(backend).last_run.seconds["vae"] > 0


def test_frames_of_a_chunk_see_each_other() -> None:
    assert difference(plain(decode_chunk_size=1), plain(decode_chunk_size=3)) > 1e-3


def test_a_smaller_last_chunk_needs_no_other_engine() -> None:
    """OpenVINO's engines are built for the sizes of the first call: two frames, and then the one that is left."""
    pipe = cached(SVD, backend="openvino", components=("vae",), cache_interval=1)
    video(pipe, decode_chunk_size=2)
    (decoder,) = pipe._live_components
    opened = decoder.session
    video(pipe, decode_chunk_size=2)
    assert decoder.session is opened


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_call_has_as_many_frames_as_it_wants(backend: str) -> None:
    pipe = with_decoder(backend)
    for frames in (2, FRAMES, 2):
        found = video(pipe, num_frames=frames)
        assert found.shape[1] == frames
        assert difference(found, plain(num_frames=frames)) <= 1e-4


@pytest.mark.parametrize("frames", [2, FRAMES])
def test_cached_videos_are_those_of_caching_by_hooks(frames: int) -> None:
    call: dict[str, Any] = {"num_frames": frames, "num_inference_steps": 5, "output_type": "latent"}
    pipe, reference = cached(SVD, cache_interval=2), SVD.new()
    with cached_by_hooks(reference.unet, lambda call: call % 2 == 0):
        expected = draw(reference, SVD, **call)
    uncached = draw(reference, SVD, **call)
    scale = uncached.abs().max().item()  # of latents that begin at a noise level of 700
    assert difference(draw(pipe, SVD, **call), expected) <= 1e-4 * scale
    assert pipe.last_run.way == "whole loop"
    assert difference(uncached, expected) > 1e-3 * scale


def test_another_number_of_frames_cannot_be_built_by_a_command(tmp_path: Any) -> None:
    pipe = cached(SVD, store=tmp_path, build="never")
    with pytest.raises(NotBuiltError, match=r"unet with 2 frames .*; allow build='auto' once, since engines with 2 fr"):
        video(pipe, num_frames=2)


@pytest.mark.parametrize(
    ("frames", "error", "message"),
    [
        (32, ShapeError, "a batch of 2 is outside the profile 1; draw fewer images or frames at a time .guidance doub"),
        (64, UnsupportedError, "num_frames=64: a graph takes at most 63 frames; draw fewer at a time"),
    ],
)
def test_more_frames_than_a_graph_takes_are_refused(frames: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        video(with_decoder("onnxruntime"), num_frames=frames)


@pytest.mark.parametrize(("videos", "frames"), [(2, 3), (6, 1)])
def test_several_videos_in_one_call_of_the_decoder_are_refused(videos: int, frames: int) -> None:
    """diffusers itself takes each chunk for one video, even where it holds the end of one and the start of the next."""
    model = tiny.part("temporal_vae")
    call = {"sample": torch.zeros(6, 4, 8, 8), "image_only_indicator": torch.zeros(videos, frames)}
    with pytest.raises(UnsupportedError, match=rf"num_frames={frames} of 6 latents: .* decode each video by itself"):
        tensors_from_call(architecture_of(model, dtype="float32"), model, {**call, "num_frames": frames})


def test_two_videos_are_decoded_as_diffusers_does() -> None:
    call = {"num_videos_per_prompt": 2, "decode_chunk_size": 4}
    assert difference(video(with_decoder("onnxruntime"), **call), plain(**call)) <= 1e-4
