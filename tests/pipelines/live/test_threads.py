"""Pipelines that share models, their copies, and threads: every image is the one that is drawn alone."""

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepcache_trt import DeepCachePipeline
from deepcache_trt.models import live_tree
from deepcache_trt.models.fresh import fake_model
from deepcache_trt.pipelines.patched_forward import alone_with
from tests.pipelines import micro
from tests.pipelines.drawing import difference
from tests.pipelines.live.serving import copied, draw, unused

pytestmark = pytest.mark.usefixtures("shared_sessions")

SD = micro.STRAIGHT["sd"]


def own() -> Any:
    return micro.with_own(SD, "unet", "vae")


def cached(plain: Any, **options: Any) -> Any:
    return DeepCachePipeline.from_pipe(plain, **{**micro.engines(SD), "cache_interval": 2, **options})


@pytest.mark.parametrize("callback", [None, lambda pipe, i, t, tensors: tensors])
def test_a_copy_has_steps_and_caches_of_its_own(callback: Any) -> None:
    plain = own()
    pipe = cached(plain)
    expected = micro.draw(pipe, SD, num_inference_steps=9, callback_on_step_end=callback)
    draw(pipe, steps=4)
    other = copied(pipe)
    assert torch.equal(micro.draw(other, SD, num_inference_steps=9, callback_on_step_end=callback), expected)
    assert len(other.last_run.plan) == 9
    other.set_cache_params(cache_interval=1)
    assert pipe.cache_params.cache_interval == 2
    assert difference(draw(other), draw(plain)) <= 1e-4
    assert other._cached_denoiser.session is pipe._cached_denoiser.session


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda pipe: pickle.loads(pickle.dumps(pipe))])
def test_what_is_copied_or_pickled_after_an_image_draws_the_same(way: Any) -> None:
    plain = own()
    plain.text_encoder = unused(plain.text_encoder)
    pipe = cached(plain, components=("text_encoder",))
    expected = draw(pipe)
    other = way(pipe)
    assert type(other) is type(pipe)
    assert (other.cache_params, other.engine_options) == (pipe.cache_params, pipe.engine_options)
    assert torch.equal(draw(other), expected)
    assert torch.equal(draw(pipe), expected)


def test_plain_diffusers_in_another_thread_is_left_alone() -> None:
    """Each in the middle of the other's image, on one U-Net."""
    plain = own()
    pipe = cached(plain)
    expected, expected_cached = draw(plain), draw(pipe)
    drawn: list[torch.Tensor] = []

    def meanwhile(pipe: Any, i: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        thread = threading.Thread(target=lambda: drawn.append(draw(copied(plain))))
        thread.start()
        thread.join()
        return tensors

    assert (
        difference(micro.draw(pipe, SD, num_inference_steps=5, callback_on_step_end=meanwhile), expected_cached) <= 1e-5
    )
    assert all(torch.equal(image, expected) for image in drawn)
    assert len(drawn) == 5
    assert "forward" not in vars(plain.unet)


def test_another_thread_waits_for_the_models_and_an_error_lets_it_go_on() -> None:
    plain = own()
    pipes = [cached(plain), cached(plain, cache_interval=3)]
    expected = [draw(pipe) for pipe in pipes]
    entered, finish = threading.Event(), threading.Event()

    def fail_later(pipe: Any, i: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        entered.set()
        finish.wait(30)
        raise KeyError("half way")

    with ThreadPoolExecutor(2) as pool:
        failing = pool.submit(micro.draw, pipes[0], SD, num_inference_steps=5, callback_on_step_end=fail_later)
        assert entered.wait(30)
        waiting = pool.submit(draw, pipes[1])
        assert not waiting.done()
        finish.set()
        with pytest.raises(KeyError, match="half way"):
            failing.result()
        assert torch.equal(waiting.result(30), expected[1])
    assert "forward" not in vars(plain.unet)
    assert torch.equal(draw(pipes[0]), expected[0])


def test_models_within_a_container_are_waited_for_too() -> None:
    kind = micro.MICROS["sd controlnets"]
    pipe = micro.cached(kind)
    with ThreadPoolExecutor(1) as pool:
        with alone_with([pipe.controlnet.nets[1]]):
            waiting = pool.submit(micro.draw, pipe, kind, num_inference_steps=2)
            with pytest.raises(TimeoutError):
                waiting.result(0.5)
        assert waiting.result(300).isfinite().all()  # the first to draw exports the models


JOBS = st.lists(
    st.tuples(st.sampled_from(["plain", "one", "two", "a copy of one"]), st.integers(3, 6), st.integers(0, 1)),
    min_size=2,
    max_size=6,
)
SHARED = own()
KINDS = {"plain": SHARED, "one": cached(SHARED), "two": cached(SHARED, cache_interval=3)}
KINDS["a copy of one"] = copied(KINDS["one"])
ALONE: dict[tuple[str, int, int], torch.Tensor] = {}


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(JOBS, st.integers(1, 3))
def test_any_images_in_any_threads_are_those_that_are_drawn_alone(jobs: list[tuple[str, int, int]], count: int) -> None:
    for kind, steps, seed in jobs:
        if (kind, steps, seed) not in ALONE:
            ALONE[kind, steps, seed] = draw(copied(KINDS[kind]), steps=steps, seed=seed)
    with ThreadPoolExecutor(count) as pool:
        drawn = [pool.submit(draw, copied(KINDS[kind]), steps=steps, seed=seed) for kind, steps, seed in jobs]
    for job, image in zip(jobs, drawn, strict=True):
        assert difference(image.result(), ALONE[job]) <= 1e-6
    assert "forward" not in vars(SHARED.unet)


def test_first_images_on_models_of_their_own_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = draw(cached(own()))
    monkeypatch.setattr(live_tree, "_fresh_trees", {})  # as in a new process, where each is compared with a new model
    pipes = [cached(own()) for _ in range(4)]
    with ThreadPoolExecutor(len(pipes)) as pool:
        assert all(torch.equal(image, expected) for image in pool.map(draw, pipes))
    assert torch.nn.Linear(2, 2).weight.device.type == "cpu"


def test_building_leaves_the_default_dtype_of_others_alone() -> None:
    seen: set[torch.dtype] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            seen.add(torch.get_default_dtype())

    watcher = threading.Thread(target=watch)
    watcher.start()
    unet: Any = KINDS["plain"].unet
    model = fake_model(type(unet), dict(unet.config), "float16")
    stop.set()
    watcher.join()
    assert seen == {torch.float32}
    assert {weight.dtype for weight in model.parameters()} == {torch.float16}
