"""An image is drawn or refused: what engines, or arguments, make NaN of is never a black picture."""

from typing import Any

import pytest
import torch

from deepcache_trt import DeepCachePipeline, DeepCacheSDHelper
from deepcache_trt.errors import BackendError, UnsupportedError
from tests import tiny
from tests.pipelines.drawing import draw

NAN = float("nan")


def cached(**options: Any) -> Any:
    pipe = DeepCachePipeline.from_pipe(tiny.stable_diffusion(), cache_interval=2, backend="torch", **options)
    # Of its own, since these tests break it.
    pipe.unet = tiny.new_denoiser("sd15")
    return pipe


@pytest.mark.parametrize("way", ["whole loop", "per step", "helper"])
def test_engines_that_give_nan_are_named(way: str) -> None:
    pipe = cached()
    if way == "helper":
        plain = tiny.stable_diffusion()
        plain.unet = pipe.unet
        pipe = plain
        DeepCacheSDHelper(pipe, backend="torch").enable()
    with torch.no_grad():
        pipe.unet.conv_out.bias[0] = NAN
    callback: Any = {"callback_on_step_end": lambda *_: {}} if way == "per step" else {}
    with pytest.raises(BackendError, match=r"the engines of .* unet \(torch\) gave \d+ NaN or infinite values"):
        draw(pipe, **callback)
    with torch.no_grad():
        pipe.unet.conv_out.bias[0] = 0.0
    assert draw(pipe).isfinite().all()


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_engines_that_give_nothing_are_named(part: str) -> None:
    pipe = cached()
    pipe.vae = tiny.new_part("vae")
    last = pipe.unet.conv_out if part == "unet" else pipe.vae.decoder.conv_out
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
    with pytest.raises(BackendError, match=rf"{part} \(torch\) gave nothing but zeros"):
        pipe("a handwritten seven", num_inference_steps=2, output_type="pt")


def test_a_decoder_that_gives_nan_is_named() -> None:
    pipe = cached()
    pipe.vae = tiny.new_part("vae")
    with torch.no_grad():
        pipe.vae.decoder.conv_out.bias[0] = NAN
    with pytest.raises(BackendError, match=r"vae \(torch\) gave \d+ NaN or infinite values"):
        pipe("a handwritten seven", num_inference_steps=2, output_type="pt")


@pytest.mark.parametrize("bad", [NAN, float("inf")])
def test_latents_that_are_nan_are_named(bad: float) -> None:
    latents = torch.zeros(2, 4, 8, 8)
    latents[0, 0, 0, 0] = bad
    with pytest.raises(UnsupportedError, match=r"values of latents that unet is given are NaN"):
        draw(cached(), latents=latents, height=64, width=64)
