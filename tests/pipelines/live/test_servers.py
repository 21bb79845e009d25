"""How servers use pipelines: a copy for each request, in threads of asyncio too, with DeepCache's helper or without."""

import asyncio
import copy
import pickle
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepcache_trt import DeepCachePipeline, DeepCacheSDHelper
from deepcache_trt.builder.shared_session import SharedSession
from deepcache_trt.errors import UnsupportedError
from tests.pipelines import micro
from tests.pipelines.drawing import difference
from tests.pipelines.live.serving import copied, draw, unused

pytestmark = pytest.mark.usefixtures("shared_sessions")

SD = micro.STRAIGHT["sd"]
PLAIN: Any = StableDiffusionPipeline


def own() -> Any:
    return micro.with_own(SD, "unet", "vae")


@pytest.fixture
def enabled() -> Iterator[tuple[DeepCacheSDHelper, Any]]:
    """A helper, and the pipeline that it caches."""
    plain = own()
    helper = DeepCacheSDHelper(plain, backend="onnxruntime")
    helper.set_params(cache_interval=3)
    helper.enable()
    yield helper, plain
    helper.disable()


def drawn_for(pipe: Any, steps: int, seed: int) -> torch.Tensor:
    return draw(copied(pipe), steps=steps, seed=seed)


Served = Callable[[Sequence[Callable[[], torch.Tensor]]], list[torch.Tensor]]


def in_threads_of_asyncio(requests: Sequence[Callable[[], torch.Tensor]]) -> list[torch.Tensor]:
    async def serve() -> list[torch.Tensor]:
        return await asyncio.gather(*(asyncio.to_thread(request) for request in requests))

    return asyncio.run(serve())


def in_an_executor(requests: Sequence[Callable[[], torch.Tensor]]) -> list[torch.Tensor]:
    async def serve() -> list[torch.Tensor]:
        with ThreadPoolExecutor(2) as pool:
            loop = asyncio.get_running_loop()
            images: list[Awaitable[torch.Tensor]] = [loop.run_in_executor(pool, request) for request in requests]
            return await asyncio.gather(*images)

    return asyncio.run(serve())


def in_the_loop_itself(requests: Sequence[Callable[[], torch.Tensor]]) -> list[torch.Tensor]:
    async def answer(request: Callable[[], torch.Tensor]) -> torch.Tensor:
        await asyncio.sleep(0)
        return request()

    async def serve() -> list[torch.Tensor]:
        return await asyncio.gather(*map(answer, requests))

    return asyncio.run(serve())


@pytest.mark.parametrize("served", [in_threads_of_asyncio, in_an_executor, in_the_loop_itself])
@pytest.mark.parametrize("with_helper", [False, True])
def test_requests_are_answered_with_what_is_drawn_alone(
    served: Served, with_helper: bool, enabled: tuple[DeepCacheSDHelper, Any]
) -> None:
    pipe = enabled[1] if with_helper else DeepCachePipeline.from_pipe(own(), backend="onnxruntime", cache_interval=3)
    jobs = [(steps, seed) for steps in (4, 6) for seed in (0, 1)]
    expected = [draw(pipe, steps=steps, seed=seed) for steps, seed in jobs]
    requests = [partial(drawn_for, pipe, steps, seed) for steps, seed in jobs]
    for image, alone in zip(served(requests), expected, strict=True):
        assert difference(image, alone) <= 1e-6


def test_a_thread_that_asyncio_starts_within_an_image_has_models_of_its_own() -> None:
    plain = own()
    pipe = DeepCachePipeline.from_pipe(plain, backend="onnxruntime", cache_interval=3)
    expected, other = draw(plain), copied(plain)
    drawn: list[torch.Tensor] = []

    def meanwhile(pipe: Any, i: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        drawn.append(asyncio.run(asyncio.to_thread(draw, other)))  # which hands context variables on
        return tensors

    micro.draw(pipe, SD, num_inference_steps=3, callback_on_step_end=meanwhile)
    assert len(drawn) == 3
    assert all(torch.equal(image, expected) for image in drawn)


@pytest.mark.parametrize("with_helper", [False, True])
def test_what_one_request_opened_is_open_for_the_next(with_helper: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, opened = own(), []
    new = SharedSession.__init__

    def counted(self: SharedSession, *args: Any, **kwargs: Any) -> None:
        opened.append(self)
        new(self, *args, **kwargs)

    monkeypatch.setattr(SharedSession, "__init__", counted)
    helper = DeepCacheSDHelper(plain, backend="onnxruntime")
    if with_helper:
        helper.enable()
    pipe = plain if with_helper else DeepCachePipeline.from_pipe(plain, backend="onnxruntime", components=())
    images = [draw(copied(pipe)) for _ in range(3)]
    assert len(opened) == 1
    assert all(torch.equal(image, images[0]) for image in images)
    helper.disable()


def test_a_copy_with_another_model_shares_nothing_of_it() -> None:
    pipe = DeepCachePipeline.from_pipe(own(), backend="onnxruntime", cache_interval=2)
    expected = draw(pipe)
    other = copied(pipe)
    other.unet = own().unet
    with torch.no_grad():
        other.unet.conv_in.bias.add_(1)
    uncached = copied(pipe)
    uncached.unet = other.unet
    for each in (other, uncached):
        each.set_cache_params(cache_interval=1)
    uncached.disable_cache()
    assert difference(draw(other), draw(uncached)) <= 1e-4
    assert difference(draw(other), expected) > 1e-3
    assert torch.equal(draw(pipe), expected)


REQUESTS = st.lists(st.tuples(st.booleans(), st.integers(3, 6), st.integers(0, 1)), min_size=2, max_size=6)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(REQUESTS, st.integers(1, 3))
def test_any_requests_of_a_pipeline_with_a_helper(
    enabled: tuple[DeepCacheSDHelper, Any], requests: list[tuple[bool, int, int]], count: int
) -> None:
    """Copies, and, one after the other, the pipeline itself."""
    plain = enabled[1]
    alone = [draw(plain, steps=steps, seed=seed) for _, steps, seed in requests]
    with ThreadPoolExecutor(count) as pool:
        drawn = [pool.submit(drawn_for, plain, steps, seed) for _, steps, seed in requests]
        for (itself, steps, seed), expected in zip(requests, alone, strict=True):
            assert not itself or difference(draw(plain, steps=steps, seed=seed), expected) <= 1e-6
    for image, expected in zip(drawn, alone, strict=True):
        assert difference(image.result(), expected) <= 1e-6


@pytest.mark.parametrize("way", [copy.deepcopy, lambda pipe: pickle.loads(pickle.dumps(pipe))])
def test_deep_copies_and_pickles_of_a_pipeline_with_a_helper_are_plain(
    way: Any, enabled: tuple[DeepCacheSDHelper, Any]
) -> None:
    helper, plain = enabled
    plain.text_encoder = unused(plain.text_encoder)
    other = way(plain)
    cached = draw(plain)
    assert type(other) is PLAIN
    with torch.no_grad():
        other.unet.conv_in.bias.add_(1)
    changed = draw(other)
    assert torch.equal(draw(plain), cached)
    helper.disable()
    assert torch.equal(draw(other), changed)
    assert difference(draw(plain), changed) > 1e-3
    with torch.no_grad():
        plain.unet.conv_in.bias.add_(1)
    assert torch.equal(draw(plain), changed)


def test_a_pipeline_is_what_it_was_once_its_helper_is_disabled(enabled: tuple[DeepCacheSDHelper, Any]) -> None:
    helper, plain = enabled
    drawn = copied(plain)
    cached = draw(plain)
    assert isinstance(plain, PLAIN)
    helper.enable()
    assert torch.equal(draw(plain), cached)
    helper.disable()
    assert type(plain) is PLAIN
    assert "forward" not in vars(plain.unet)
    expected = draw(plain)
    assert torch.equal(draw(drawn), expected)
    assert difference(expected, cached) > 1e-3


def test_the_last_helper_of_a_pipeline_counts(enabled: tuple[DeepCacheSDHelper, Any]) -> None:
    first, plain = enabled
    second = DeepCacheSDHelper(plain, backend="onnxruntime")
    second.enable()
    uncached = draw(plain)
    first.disable()
    assert torch.equal(draw(plain), uncached)
    second.disable()
    assert difference(draw(plain), uncached) <= 1e-4
    assert type(plain) is PLAIN


def test_two_pipelines_on_one_model_have_helpers_of_their_own(enabled: tuple[DeepCacheSDHelper, Any]) -> None:
    first, plain = enabled
    first_image, other = draw(plain), copied(plain)
    second = DeepCacheSDHelper(other, backend="onnxruntime")
    second.enable()
    second_image = draw(other)
    assert difference(second_image, first_image) > 1e-3
    for _ in range(2):
        assert torch.equal(draw(plain), first_image)
        assert torch.equal(draw(other), second_image)
    second.disable()
    assert torch.equal(draw(plain), first_image)
    first.disable()
    assert difference(draw(other), second_image) <= 1e-4
    assert "forward" not in vars(plain.unet)


def test_other_pipelines_are_made_of_one_with_a_helper(enabled: tuple[DeepCacheSDHelper, Any]) -> None:
    helper, plain = enabled
    cached = DeepCachePipeline.from_pipe(plain, backend="onnxruntime", cache_interval=1)
    assert cached._plain_class is PLAIN
    uncached = draw(cached)
    assert type(StableDiffusionImg2ImgPipeline.from_pipe(plain)) is StableDiffusionImg2ImgPipeline
    helper.disable()
    assert difference(uncached, draw(plain)) <= 1e-4


def test_the_denoiser_itself_is_cached_in_one_thread_at_a_time(enabled: tuple[DeepCacheSDHelper, Any]) -> None:
    """As in loops of one's own, which nobody can tell apart."""
    plain = enabled[1]
    plain.scheduler.set_timesteps(4)
    config = plain.unet.config
    sample = torch.randn(1, config.in_channels, 16, 16, generator=torch.Generator().manual_seed(0))
    prompt = torch.zeros(1, 7, config.cross_attention_dim)

    def predict(t: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            answer: torch.Tensor = plain.unet(sample, t, encoder_hidden_states=prompt, return_dict=False)[0]
        return answer.clone()

    first = [predict(t) for t in plain.scheduler.timesteps[:2]]
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(UnsupportedError, match=r"in the middle of an image .* or call disable"):
            pool.submit(predict, plain.scheduler.timesteps[2]).result()
        rest = [predict(t) for t in plain.scheduler.timesteps[2:]]
        plain.scheduler.set_timesteps(4)
        again = [pool.submit(predict, t).result() for t in plain.scheduler.timesteps]
    assert all(map(torch.equal, again, first + rest))
