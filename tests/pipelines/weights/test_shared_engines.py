"""Pipelines with the same model share its open engines, and nothing of one's images reaches another's."""

import gc
from typing import Any

import pytest
import torch

import deepcache_trt.pipelines
from deepcache_trt import DeepCachePipeline
from deepcache_trt.builder import shared_session
from tests.pipelines.micro import OTHERS, STRAIGHT, cached, draw, engines, with_own
from tests.pipelines.micro_parts import controlnet

pytestmark = pytest.mark.usefixtures("shared_sessions")

TEXT, EDIT, CONTROLLED = STRAIGHT["sd"], STRAIGHT["sd img2img"], OTHERS["sd controlnet"]
STEPS = 7
PARAMS: dict[str, Any] = {"cache_interval": 3}


@pytest.fixture(autouse=True)
def _nothing_is_open() -> None:
    gc.collect()
    shared_session._holders.clear()


def alone(micro: Any, **call: Any) -> torch.Tensor:
    """What a pipeline draws on engines of its own."""
    shared_session._holders.clear()
    image = draw(cached(micro, **PARAMS), micro, num_inference_steps=STEPS, **call)
    shared_session._holders.clear()
    return image


def session_of(pipe: Any) -> Any:
    return pipe._cached_denoiser.session


def test_editing_after_drawing_runs_on_the_same_engines() -> None:
    expected = {name: alone(micro) for name, micro in (("text", TEXT), ("edit", EDIT))}
    text, edit = cached(TEXT, **PARAMS), cached(EDIT, **PARAMS)
    for _ in range(2):
        assert torch.equal(draw(text, TEXT, num_inference_steps=STEPS), expected["text"])
        assert torch.equal(draw(edit, EDIT, num_inference_steps=STEPS), expected["edit"])
        assert session_of(text) is session_of(edit)
        assert edit.last_run.seconds["engines"] <= edit.last_run.seconds["total"]


def test_what_is_made_of_a_cached_pipeline_is_cached_as_it_is() -> None:
    text = cached(TEXT, cache_interval=4, cache_branch_id=1)
    edit = deepcache_trt.pipelines.DeepCacheStableDiffusionImg2ImgPipeline.from_pipe(text, cache_interval=2)
    assert (edit.cache_params.cache_interval, edit.cache_params.cache_branch_id) == (2, 1)
    assert edit._cached_denoiser.options == text._cached_denoiser.options
    draw(text, TEXT, num_inference_steps=2)
    draw(edit, EDIT, num_inference_steps=2)
    assert session_of(text) is session_of(edit)


@pytest.mark.parametrize("params", [{}, {"forecast": "taylor1"}])
@pytest.mark.parametrize("micro", [TEXT, CONTROLLED], ids=["text", "controlled"])
def test_an_image_in_the_middle_of_another_changes_neither(micro: Any, params: dict[str, Any]) -> None:
    """The one that was interrupted goes on with a full step."""
    outer, inner = (cached(micro, **PARAMS, **params) for _ in range(2))
    between = draw(inner, micro, seed=5, num_inference_steps=STEPS)
    in_the_middle = []

    def draw_another(pipe: Any, i: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if i == 3:  # a full step, after which two cached ones follow
            in_the_middle.append(draw(inner, micro, seed=5, num_inference_steps=STEPS))
        return tensors

    scheduler = outer.scheduler
    inner.scheduler = type(scheduler).from_config(scheduler.config)
    found = draw(outer, micro, num_inference_steps=STEPS, callback_on_step_end=draw_another)
    assert session_of(outer) is session_of(inner)
    assert torch.equal(in_the_middle[0], between)
    outer.set_cache_params(full_steps=(0, 3, 4, 6), cache_interval=3)
    expected = draw(outer, micro, num_inference_steps=STEPS, callback_on_step_end=lambda *given: given[-1])
    if not params:
        assert torch.equal(found, expected)
    outer.set_cache_params(full_steps=(0, 3, 6))
    assert not torch.equal(found, draw(outer, micro, num_inference_steps=STEPS))


def test_an_image_under_another_control_in_the_middle_asks_for_all_of_both() -> None:
    """The two share the U-Net's engines, and not the ControlNet's."""
    outer = cached(CONTROLLED, **PARAMS)
    plain = CONTROLLED.new(controlnet=controlnet("sd", seed=1))
    inner = DeepCachePipeline.from_pipe(plain, **engines(CONTROLLED), **PARAMS)

    def draw_another(pipe: Any, i: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if i == 3:
            draw(inner, CONTROLLED, num_inference_steps=STEPS)
        return tensors

    found = draw(outer, CONTROLLED, num_inference_steps=STEPS, callback_on_step_end=draw_another)
    assert session_of(outer) is session_of(inner)
    outer.set_cache_params(full_steps=(0, 3, 4, 6))
    assert torch.equal(found, draw(outer, CONTROLLED, num_inference_steps=STEPS))


def test_engines_are_closed_when_the_last_one_lets_go_of_them() -> None:
    first, second = cached(TEXT, **PARAMS), cached(TEXT, **PARAMS)
    expected = draw(first, TEXT, num_inference_steps=STEPS)
    draw(second, TEXT, num_inference_steps=STEPS)
    session = session_of(first)
    first.disable_cache()
    assert torch.equal(draw(second, TEXT, num_inference_steps=STEPS), expected)
    assert session_of(second) is session
    assert session in {shared.session for shared in shared_session.open_sessions()}
    second.disable_cache()
    assert session not in {shared.session for shared in shared_session.open_sessions()}
    assert not session._shapes, "closed"


@pytest.mark.parametrize(
    "other", [{"cache_branch_id": 1}, {"backend": "torch"}, {"size": 64}], ids=["branch", "backend", "size"]
)
def test_other_engines_are_not_shared(other: dict[str, Any]) -> None:
    first, second = cached(TEXT, **PARAMS), cached(TEXT, **{**PARAMS, **other})
    for pipe in (first, second):
        draw(pipe, TEXT, num_inference_steps=2)
    assert session_of(first) is not session_of(second)


def test_other_weights_have_other_engines() -> None:
    plain = with_own(TEXT, "unet")
    first = DeepCachePipeline.from_pipe(plain, **engines(TEXT), **PARAMS)
    before = draw(first, TEXT, num_inference_steps=STEPS)
    torch.nn.init.ones_(plain.unet.conv_out.bias)
    second = DeepCachePipeline.from_pipe(plain, **engines(TEXT), **PARAMS)
    after = draw(second, TEXT, num_inference_steps=STEPS)
    assert session_of(first) is not session_of(second)
    assert not torch.equal(before, after)
    assert torch.equal(draw(first, TEXT, num_inference_steps=STEPS), after)
    assert session_of(first) is session_of(second)


def test_weights_that_someone_has_loaded_are_dropped_again_by_either() -> None:
    plain = with_own(TEXT, "unet")
    pipes = [DeepCachePipeline.from_pipe(plain, **engines(TEXT), **PARAMS, keep_torch_weights=False) for _ in range(2)]
    images = []
    for pipe in pipes:
        images.append(draw(pipe, TEXT, num_inference_steps=STEPS))
        assert next(plain.unet.parameters()).is_meta
        plain.unet.state_dict()  # loads them
    assert session_of(pipes[0]) is session_of(pipes[1])
    assert torch.equal(*images)
