"""The whole loop draws what the pipeline's own loop draws, and steps back where it would not."""

from collections.abc import Iterator
from typing import Any

import diffusers
import pytest
import torch

from deepcache_trt import DeepCachePipeline
from deepcache_trt.pipelines import takeover, whole_loop
from tests import tiny
from tests.pipelines.drawing import difference, draw, python_between_steps
from tests.pipelines.loop.bars import watch_bars
from tests.pipelines.micro import STRAIGHT, cached
from tests.pipelines.micro import draw as micro_draw


def both_ways(pipe: Any, **call: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The same call by the whole loop and per step, and the largest value that there is."""
    whole = draw(pipe, **call)
    assert (pipe.last_run.way, pipe.last_run.reason) == ("whole loop", "")
    stepwise = draw(pipe, callback_on_step_end=python_between_steps, **call)
    assert pipe.last_run.way == "per step"
    assert "callback_on_step_end" in pipe.last_run.reason
    return whole, stepwise


def assert_same(whole: torch.Tensor, stepwise: torch.Tensor) -> None:
    assert difference(whole, stepwise) <= 1e-5 * max(1, stepwise.abs().max().item())


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def pipe(request: pytest.FixtureRequest) -> Any:
    return DeepCachePipeline.from_pipe(tiny.PIPELINES[request.param](), cache_interval=3)


@pytest.fixture(autouse=True)
def _own_scheduler(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "pipe" in request.fixturenames:
        assert "step" not in vars(request.getfixturevalue("pipe").scheduler)
        assert "progress_bar" not in vars(request.getfixturevalue("pipe"))


def test_pixels_without_a_prompt() -> None:
    plain: Any = diffusers.DDPMPipeline(tiny.new_denoiser("ddpm"), diffusers.DDPMScheduler(clip_sample=False))
    pipe = DeepCachePipeline.from_pipe(plain, cache_interval=1)
    for each in (plain, pipe):
        each.set_progress_bar_config(disable=True)

    def sample(which: Any) -> torch.Tensor:
        return torch.as_tensor(
            which(generator=torch.Generator().manual_seed(0), num_inference_steps=5, output_type="np").images
        )

    assert difference(sample(pipe), sample(plain)) <= 1e-4
    assert pipe.last_run.way == "whole loop"


# Where the loop would draw something else, the pipeline's own loop runs and the reason is told.


def test_a_scheduler_that_is_not_linear_keeps_its_own_step() -> None:
    plain = tiny.stable_diffusion()
    plain.scheduler = diffusers.DDIMScheduler.from_config(plain.scheduler.config, clip_sample=True)
    pipe = DeepCachePipeline.from_pipe(plain, cache_interval=1)
    assert difference(draw(pipe), draw(plain)) <= 1e-3
    assert pipe.last_run.way == "per step"
    assert pipe.last_run.reason.startswith("DDIMScheduler: it clips the image")


def test_a_scheduler_that_keeps_its_sample_to_itself_takes_no_paste() -> None:
    """UniPC corrects a sample that it has never returned: with many steps no table of it knows what was pasted."""
    micro = STRAIGHT["sd unmasked inpaint"]
    pipe = cached(micro, cache_interval=1)
    plain = micro.new()
    for each in (plain, pipe):
        each.scheduler = diffusers.UniPCMultistepScheduler()
    call = {"num_inference_steps": 20}
    assert_same(micro_draw(pipe, micro, **call), micro_draw(plain, micro, **call))
    assert pipe.last_run.reason == "UniPCMultistepScheduler: it goes on from samples that nothing was pasted into"


def test_a_pipeline_with_guidance_of_its_own_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tiny.stable_diffusion()
    pipe = DeepCachePipeline.from_pipe(plain, cache_interval=1)
    expected = draw(pipe)
    monkeypatch.setattr(type(pipe), "guidance_scale", property(lambda self: 3.0 if self._asked else 7.5), raising=False)
    monkeypatch.setattr(type(pipe), "_asked", False, raising=False)

    def asks_again(*args: Any) -> Any:
        type(pipe)._asked = True  # what the loop reads is not what the pipeline used
        return guidance_of(*args)

    guidance_of = takeover._ways_to_guide
    monkeypatch.setattr(takeover, "_ways_to_guide", asks_again)
    draw(pipe)
    assert pipe.last_run.reason == "the pipeline combines predictions in a way of its own"
    assert expected.isfinite().all()


# The pipeline around it.


def test_an_interrupt_from_elsewhere_ends_the_loop_with_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user interface sets it from another thread."""
    pipe = DeepCachePipeline.from_pipe(tiny.stable_diffusion(), cache_interval=2)
    kept: list[torch.Tensor] = []

    def keep(pipe: Any, i: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        kept.append(tensors["latents"])
        return tensors

    draw(pipe, callback_on_step_end=keep)
    monkeypatch.setattr(whole_loop._Bar, "move_to", lambda self, share: setattr(pipe, "_interrupt", share >= 0.5))
    stopped = draw(pipe)
    assert pipe.last_run.way == "whole loop"
    assert difference(stopped, kept[2]) <= 1e-4
    monkeypatch.undo()
    assert difference(draw(pipe), kept[-1]) <= 1e-4


def test_the_progress_bar_moves_and_ends_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    bars = watch_bars(monkeypatch, seen.append)
    plain = tiny.stable_diffusion()
    plain.scheduler = diffusers.HeunDiscreteScheduler.from_config(plain.scheduler.config)
    pipe = DeepCachePipeline.from_pipe(plain)
    pipe.set_progress_bar_config(disable=False, leave=False)
    draw(pipe)
    assert pipe.last_run.way == "whole loop"
    (bar,) = bars
    assert sum(seen) == bar.total == 6
    assert max(seen) == 1


def test_an_error_in_the_loop_leaves_the_pipeline_usable(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = draw(pipe)

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(whole_loop, "denoise", interrupted)
        with pytest.raises(KeyboardInterrupt):
            draw(pipe)
    assert torch.equal(draw(pipe), expected)


def test_the_last_run_tells_where_the_time_went(pipe: Any) -> None:
    draw(pipe)
    run = pipe.last_run
    assert set(run.seconds) >= {"unet", "vae", "text_encoder", "loop", "engines", "total"}
    assert 0 < run.seconds["engines"] <= run.seconds["loop"] + run.seconds["unet"] <= run.seconds["total"]
    assert run.plan.full_steps == (0, 3)


def test_the_seconds_of_engines_count_those_that_were_closed_for_others() -> None:
    pipe = DeepCachePipeline.from_pipe(tiny.stable_diffusion(), cache_interval=2)
    for _ in range(3):
        draw(pipe)
    pipe.set_cache_params(cache_branch_id=1)
    draw(pipe)
    seconds = pipe.last_run.seconds
    assert 0 < seconds["engines"] <= seconds["unet"] + seconds["loop"]
