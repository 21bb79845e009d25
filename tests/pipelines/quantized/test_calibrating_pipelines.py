"""What pipelines are calibrated by: of those that draw from a picture too, the text-to-image one of their models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from deepcache_trt import DeepCachePipeline
from deepcache_trt.builder.component import from_model
from deepcache_trt.errors import UnsupportedError
from deepcache_trt.export.precision import INT8
from deepcache_trt.pipelines.calibrating.beside import as_asked
from deepcache_trt.pipelines.calibrating.on_torch import quantized_component
from deepcache_trt.pipelines.engine_options import EngineOptions
from deepcache_trt.progress import logged
from deepcache_trt.runtime.policies import DeepCache
from tests.pipelines import micro
from tests.pipelines.conditions.ip_adapters import embeds, with_adapters

POLICY = DeepCache(cache_interval=2)


def calibrated(pipe: Any, store: Path, part: str = "unet") -> tuple[Mapping[str, Any], Mapping[str, float]]:
    """What the scales of a component depend on, and the scales."""
    options = EngineOptions(
        precision="int8", quantize=(f"{part}:all",), calibration_prompts=("a handwritten two",), store=store
    )
    component = from_model(getattr(pipe, part), name="micro", part=part)
    made = (
        quantized_component(pipe, component, POLICY, options) if part == "unet" else as_asked(pipe, component, options)
    )
    assert made.quantizing is not None
    return made.quantizing.calibration.about, made.quantizing.calibration.observe(logged, INT8)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize(
    ("name", "of_text"),
    [
        ("sd img2img", "sd"),
        ("sd unmasked inpaint", "sd"),
        ("sd controlnet", "sd"),
        ("sd controlnets", "sd"),
        ("sd controlnet inpaint", "sd"),
        ("lcm img2img", "lcm"),
        ("sdxl img2img", "sdxl"),
        ("sdxl controlnet img2img", "sdxl"),
    ],
)
def test_what_draws_from_a_picture_has_the_scales_of_the_text_to_image_pipeline(
    tmp_path: Path, name: str, of_text: str, part: str
) -> None:
    text = calibrated(micro.MICROS[of_text].new(), tmp_path, part)
    assert calibrated(micro.MICROS[name].new(), tmp_path, part) == text
    assert len(text[1]) > 5


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("sd inpaint", "image, mask_image"),
        ("sdxl inpaint", "image, mask_image"),
        ("instruct pix2pix", "image"),
        ("sd upscale", "image"),
        ("svd", "image"),
    ],
)
def test_a_denoiser_that_reads_a_picture_is_refused_with_the_cure(tmp_path: Path, name: str, wanted: str) -> None:
    cure = r"leave precision= out, or for timing only give calibration_prompts='noise'"
    with pytest.raises(UnsupportedError, match=rf"draws from {wanted}, of which .*; {cure}"):
        calibrated(micro.MICROS[name].new(), tmp_path)


@pytest.mark.parametrize("name", ["sd inpaint", "instruct pix2pix", "sd upscale"])
def test_its_text_encoder_is_calibrated_all_the_same(tmp_path: Path, name: str) -> None:
    about, scales = calibrated(micro.MICROS[name].new(), tmp_path, "text_encoder")
    assert about == {"inputs": "encoded", "prompts": ["a handwritten two"]}
    assert len(scales) > 5


@pytest.mark.parametrize("name", ["svd", "ddpm"])
def test_noise_calibrates_what_takes_no_prompt_too(tmp_path: Path, name: str) -> None:
    pipe = micro.MICROS[name].new()
    options = EngineOptions(precision="int8", calibration_prompts="noise", store=tmp_path)
    made = quantized_component(pipe, from_model(pipe.unet, name="micro", part="unet"), POLICY, options)
    assert made.quantizing is not None
    assert made.quantizing.calibration.about == {"inputs": "seeded", "calls": 2}


def test_an_ip_adapter_is_given_seeded_images(tmp_path: Path) -> None:
    plain = with_adapters("sd", "plain", "plus")
    given: dict[str, Any] = {
        "precision": "int8",
        "quantize": ("mid_block.*",),
        "calibration_prompts": ("a handwritten two",),
        "backend": "onnxruntime",
        "cache_interval": 2,
        "store": tmp_path,
    }
    call: dict[str, Any] = {"num_inference_steps": 4, "ip_adapter_image_embeds": embeds("plain", "plus")}
    pictures = [
        micro.draw(DeepCachePipeline.from_pipe(plain, components=(), **options), micro.STRAIGHT["sd"], **call)
        for options in (given, {**given, "precision": None, "quantize": None, "calibration_prompts": None})
    ]
    assert 0 < float((pictures[0] - pictures[1]).norm() / pictures[1].norm()) < 0.1
    with pytest.raises(UnsupportedError, match=r"vae is calibrated .* quantize=\('vae:…',\) before load_ip_adapter"):
        calibrated(plain, tmp_path, "vae")
    assert calibrated(plain, tmp_path, "text_encoder")[1]
