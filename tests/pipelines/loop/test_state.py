"""Nothing of one image reaches the next."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from deepcache_trt import DeepCachePipeline
from tests import tiny
from tests.pipelines.drawing import difference, draw, record_runs
from tests.pipelines.weights.changes import replace_values, write, write_past_the_counter

CALLS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"cache_interval": 3}, {"steps": 7}),
    ({"cache_interval": 2}, {"steps": 5, "height": 128, "width": 64}),
    ({"cache_interval": 5, "cache_branch_id": 2}, {"steps": 9, "guidance_scale": 1.0}),
    ({"cache_interval": 3, "cache_branch_id": 0}, {"steps": 4, "height": 64, "width": 128, "seed": 3}),
    ({"skip_mode": "quad"}, {"steps": 8}),
]


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_calls_in_a_row_equal_fresh_pipelines(name: str) -> None:
    plain = tiny.PIPELINES[name]()
    used = DeepCachePipeline.from_pipe(plain)
    params: dict[str, Any] = {}
    for changes, call in CALLS:
        params |= changes
        used.set_cache_params(**changes)
        fresh = DeepCachePipeline.from_pipe(plain, **params)
        assert torch.equal(draw(used, **call), draw(fresh, **call))


def test_a_batch_that_shrinks_mid_run_forces_a_full_step(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tiny.stable_diffusion()
    pipe = DeepCachePipeline.from_pipe(plain, cache_interval=10)

    def stop_guiding(pipe: Any, i: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if i == 2:
            tensors["prompt_embeds"] = tensors["prompt_embeds"].chunk(2)[-1]
            pipe._guidance_scale = 0.0
        return tensors

    shown = ["latents", "prompt_embeds"]
    call: dict[str, Any] = {"callback_on_step_end": stop_guiding, "callback_on_step_end_tensor_inputs": shown}
    draw(pipe, **call)
    ran = record_runs(pipe._cached_denoiser.session.engines, monkeypatch)
    draw(pipe, **call)
    assert ran == ["full", "shallow", "shallow", "full", "shallow", "shallow"]


def test_an_image_that_fails_half_way_leaves_the_pipeline_usable() -> None:
    plain = tiny.stable_diffusion()
    forward = vars(plain.unet).get("forward")
    pipe = DeepCachePipeline.from_pipe(plain, cache_interval=3)
    expected = draw(pipe)

    def fail(*_: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(pipe, callback_on_step_end=fail)
    assert vars(plain.unet).get("forward") is forward
    assert torch.equal(draw(pipe), expected)


@pytest.mark.parametrize("change", [write, write_past_the_counter, replace_values])
def test_changed_weights_are_noticed_at_the_next_image(change: Callable[[Any], None]) -> None:
    plain = tiny.stable_diffusion()
    plain.unet = tiny.new_denoiser("sd15", seed=1)
    pipe = DeepCachePipeline.from_pipe(plain, cache_interval=1)
    before = draw(pipe)
    change(plain.unet)
    assert difference(draw(pipe), draw(plain)) <= 1e-4
    assert difference(draw(pipe), before) > 1e-3
