"""Refusals that leave everything as it was, and what a pipeline says while it builds."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from deepcache_trt import DeepCachePipeline
from deepcache_trt.errors import UnsupportedError
from tests.pipelines import micro

SD = micro.STRAIGHT["sd"]


@pytest.mark.parametrize("name", ["StableDiffusionSAGPipeline", "StableDiffusionPAGPipeline"])
def test_a_pipeline_that_changes_attention_in_its_call_leaves_nothing_behind(name: str) -> None:
    plain = micro.with_own(SD, "unet")
    before = micro.draw(plain, SD, num_inference_steps=3)
    other = getattr(diffusers, name)(**plain.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    pipe = DeepCachePipeline.from_pipe(other, cache_interval=1, **micro.engines(SD))
    with pytest.raises(UnsupportedError, match=rf"{name} puts attention processors of its own .*disable_cache\(\)"):
        micro.draw(pipe, SD, num_inference_steps=3)
    assert {type(each).__name__ for each in plain.unet.attn_processors.values()} == {"AttnProcessor2_0"}
    assert torch.equal(micro.draw(plain, SD, num_inference_steps=3), before)
    pipe.disable_cache()
    micro.draw(pipe, SD, num_inference_steps=3)


def test_latents_of_another_precision_are_refused_by_name() -> None:
    pipe = micro.cached(SD, cache_interval=1)
    latents = torch.randn(1, 4, 8, 8)
    with pytest.raises(UnsupportedError, match=r"latents are float64 .* pass latents.to\(torch.float32\)"):
        micro.draw(pipe, SD, num_inference_steps=2, latents=latents.double())
    micro.draw(pipe, SD, num_inference_steps=2, latents=latents)


@pytest.fixture
def bars_of_diffusers() -> Any:
    diffusers.utils.logging.enable_progress_bar()
    yield diffusers.utils.logging
    diffusers.utils.logging.enable_progress_bar()


@pytest.mark.parametrize("switch", ["nothing", "pipeline", "diffusers", "environment"])
def test_who_wants_no_progress_bars_gets_no_lines_and_loading_says_nothing(
    switch: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    bars_of_diffusers: Any,
) -> None:
    monkeypatch.setattr("deepcache_trt.progress._is_terminal_ours", False)
    plain = SD.new()
    plain.set_progress_bar_config(disable=switch == "pipeline")
    if switch == "diffusers":
        bars_of_diffusers.disable_progress_bar()
    if switch == "environment":
        monkeypatch.setenv("DEEPCACHE_TRT_PROGRESS", "0")
    options: dict[str, Any] = {"cache_interval": 2, "store": str(tmp_path), **micro.engines(SD)}
    micro.draw(DeepCachePipeline.from_pipe(plain, **options), SD, num_inference_steps=2)
    assert ("✓ tracing the model" in capfd.readouterr().err) == (switch == "nothing")
    micro.draw(DeepCachePipeline.from_pipe(plain, **options), SD, num_inference_steps=2)
    assert "✓" not in capfd.readouterr().err
