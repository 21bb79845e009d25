"""Sizes, batches, guidance, frames, ControlNets and weights that take turns: each finds its engines open again."""

from typing import Any

import pytest
import torch

from deepcache_trt import DeepCachePipeline
from deepcache_trt.builder import shared_session
from deepcache_trt.errors import StoreError
from tests.pipelines.micro import OTHERS, STRAIGHT, cached, draw, engines, with_own

pytestmark = pytest.mark.usefixtures("shared_sessions")

TEXT, VIDEO, CONTROLLED = STRAIGHT["sd"], STRAIGHT["svd"], OTHERS["sd controlnet"]
STEPS = 4

KINDS: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "sizes": (TEXT, [{}, {"height": 32, "width": 48}, {"height": 48, "width": 32}]),
    "batches": (TEXT, [{}, {"num_images_per_prompt": 3}]),
    "guidance": (TEXT, [{}, {"guidance_scale": 1.0}]),
    "frames": (VIDEO, [{"num_frames": 2}, {"num_frames": 3}]),
}


@pytest.fixture(autouse=True)
def _nothing_is_open() -> None:
    shared_session._holders.clear()


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_takes_turns_is_opened_once_each(kind: str, backend: str) -> None:
    micro, calls = KINDS[kind]
    pipe = cached(micro, cache_interval=2, backend=backend)
    first = [draw(pipe, micro, num_inference_steps=STEPS, **call) for call in calls]
    assert pipe.last_run.opened.keys() <= {"unet", "vae"}
    for _ in range(2):
        for call, expected in zip(calls, first, strict=True):
            assert torch.equal(draw(pipe, micro, num_inference_steps=STEPS, **call), expected)
            assert pipe.last_run.opened == {}


def test_with_and_without_a_controlnet_in_turn() -> None:
    controlled = cached(CONTROLLED, cache_interval=2)
    plain = DeepCachePipeline.from_pipe(TEXT.new(unet=controlled.unet), **engines(TEXT), cache_interval=2)
    first = draw(controlled, CONTROLLED, num_inference_steps=STEPS), draw(plain, TEXT, num_inference_steps=STEPS)
    for _ in range(2):
        assert torch.equal(draw(controlled, CONTROLLED, num_inference_steps=STEPS), first[0])
        assert controlled.last_run.opened == {}
        assert torch.equal(draw(plain, TEXT, num_inference_steps=STEPS), first[1])
        assert plain.last_run.opened == {}


def test_weights_that_come_back_find_their_engines_open() -> None:
    plain = with_own(TEXT, "unet")
    pipe = DeepCachePipeline.from_pipe(plain, **engines(TEXT), cache_interval=2)
    bias = plain.unet.conv_out.bias
    before = bias.detach().clone()
    images = []
    for values in (before, before + 1) * 2:
        bias.data.copy_(values)
        images.append(draw(pipe, TEXT, num_inference_steps=STEPS))
        opened = pipe.last_run.opened
    assert opened == {}
    assert torch.equal(images[0], images[2])
    assert torch.equal(images[1], images[3])
    assert not torch.equal(images[0], images[1])


def test_without_room_only_what_is_in_use_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPCACHE_TRT_OPEN_GB", "0")
    pipe = cached(TEXT, cache_interval=2, backend="openvino")
    small = {"height": 32, "width": 32}
    first = draw(pipe, TEXT, num_inference_steps=STEPS)
    for _ in range(2):
        draw(pipe, TEXT, num_inference_steps=STEPS, **small)
        assert pipe.last_run.opened == {"unet": 1}
        assert torch.equal(draw(pipe, TEXT, num_inference_steps=STEPS), first)
        assert pipe.last_run.opened == {"unet": 1}
    components = [shared.made_of.part for shared in shared_session.open_sessions()]
    assert sorted(components) == sorted(set(components))


def test_what_was_used_longest_ago_is_closed_first(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = cached(TEXT, cache_interval=2, backend="openvino")
    draw(pipe, TEXT, num_inference_steps=STEPS)
    of_unet = pipe._cached_denoiser.engines.opened.held_bytes
    assert of_unet == sum(weight.nbytes for weight in pipe.unet.parameters())
    monkeypatch.setenv("DEEPCACHE_TRT_OPEN_GB", str(2.5 * of_unet / 1e9))  # one, and the one that is opened
    sides = 32, 40, 48
    for side in sides:
        draw(pipe, TEXT, num_inference_steps=STEPS, height=side, width=side)
        assert pipe.last_run.opened == {"unet": 1}
    draw(pipe, TEXT, num_inference_steps=STEPS, height=40, width=40)
    assert pipe.last_run.opened == {}
    draw(pipe, TEXT, num_inference_steps=STEPS, height=32, width=32)
    assert pipe.last_run.opened == {"unet": 1}


def test_a_pipeline_that_is_gone_leaves_nothing_open() -> None:
    pipe = cached(TEXT, cache_interval=2, backend="openvino")
    for side in (32, 48):
        draw(pipe, TEXT, num_inference_steps=STEPS, height=side, width=side)
    held = pipe._cached_denoiser.engines.kept
    assert len(held) == 2
    pipe.disable_cache()
    assert not held
    assert not [shared for shared in shared_session.open_sessions() if shared.made_of.part == "unet"]


def test_a_setting_that_is_no_number_is_refused_with_an_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPCACHE_TRT_OPEN_GB", "much")
    with pytest.raises(StoreError, match=r"DEEPCACHE_TRT_OPEN_GB='much' is no number of gigabytes; write for example"):
        draw(cached(TEXT), TEXT, num_inference_steps=2)


def test_many_mixed_calls_open_no_more_than_there_are_shapes() -> None:
    pipe = cached(TEXT, cache_interval=2, backend="openvino")
    calls: list[dict[str, Any]] = [
        {"height": side, "width": side, "guidance_scale": scale} for side in (32, 48) for scale in (1.0, 5.0)
    ]
    for number in range(24):
        draw(pipe, TEXT, num_inference_steps=2, **calls[number * 7 % len(calls)])
    assert pipe._cached_denoiser.engines.opened_count == len(calls)
