"""Weights that lie elsewhere, or were written to in a way that leaves no mark, are seen before an image is given."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from deepcache_trt import DeepCachePipeline
from deepcache_trt.export import digest
from deepcache_trt.pipelines import material
from tests.pipelines.micro import OTHERS, STRAIGHT, draw, engines, with_own

TEXT, CONTROLLED = STRAIGHT["sd"], OTHERS["sd controlnet"]
STEPS = 4


def channels_last(model: Any) -> None:
    model.to(memory_format=torch.channels_last)


def to_and_fro(model: Any) -> None:
    """As `.to("cpu")` and back does: the same values in other memory."""
    for weight in model.parameters():
        weight.data = weight.data.clone()


@pytest.mark.parametrize("move", [channels_last, to_and_fro])
@pytest.mark.parametrize(("backend", "follows"), [("torch", True), ("onnxruntime", False)])
def test_engines_that_read_weights_where_they_lie_follow_them(
    move: Callable[[Any], None], backend: str, follows: bool
) -> None:
    """A CUDA graph would go on reading the old addresses."""
    plain = with_own(TEXT, "unet")
    pipe = DeepCachePipeline.from_pipe(plain, **{**engines(TEXT), "backend": backend}, cache_interval=2)
    before = draw(pipe, TEXT, num_inference_steps=STEPS)
    session = pipe._cached_denoiser.session
    move(plain.unet)
    after = draw(pipe, TEXT, num_inference_steps=STEPS)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    if follows:
        assert pipe._cached_denoiser.session is not session
    elif move is to_and_fro:
        assert pipe._cached_denoiser.session is session
    draw(pipe, TEXT, num_inference_steps=STEPS)
    assert pipe.last_run.opened == {}


def unseen(weight: Any) -> None:
    """Through NumPy: torch counts no write, and nothing is another object or elsewhere."""
    weight.detach().numpy().flat[:] += 1


@pytest.mark.parametrize("many", [0, 1 << 40], ids=["beside the first step", "after it"])
@pytest.mark.parametrize(
    ("micro", "part", "weight"),
    [(TEXT, "unet", "conv_out.bias"), (CONTROLLED, "controlnet", "conv_in.bias")],
    ids=["unet", "controlnet"],
)
def test_a_write_that_leaves_no_mark_is_in_the_next_image(
    micro: Any, part: str, weight: str, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digest, "_MANY", many)
    plain = with_own(micro, part)
    pipe = DeepCachePipeline.from_pipe(plain, **engines(micro), cache_interval=2)
    model = getattr(plain, part)
    before = draw(pipe, micro, num_inference_steps=STEPS)
    assert torch.equal(draw(pipe, micro, num_inference_steps=STEPS), before)
    tensors = [*model.parameters()]
    marks = material.marks_of(model, tensors)
    unseen(model.get_parameter(weight))
    assert material.marks_of(model, tensors) == marks
    after = draw(pipe, micro, num_inference_steps=STEPS)
    assert pipe.last_run.opened == {part: 1}
    expected = draw(
        DeepCachePipeline.from_pipe(plain, **engines(micro), cache_interval=2), micro, num_inference_steps=STEPS
    )
    assert torch.equal(after, expected)
    assert not torch.equal(after, before)


def test_a_call_that_fails_leaves_nothing_that_reads_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "_MANY", 0)
    pipe = DeepCachePipeline.from_pipe(with_own(TEXT, "unet"), **engines(TEXT), cache_interval=2)
    draw(pipe, TEXT, num_inference_steps=2)
    begun: list[digest.Digests] = []
    real = digest.Digests.__init__

    def noted(each: digest.Digests, tensors: Any) -> None:
        real(each, tensors)
        begun.append(each)

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(digest.Digests, "__init__", noted)
    monkeypatch.setattr(pipe._cached_denoiser.session, "run", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        draw(pipe, TEXT, num_inference_steps=2)
    assert all(each._read is not None and each._read.done() for each in begun)
    assert begun
