"""The bundled model in 8 bits on OpenVINO: how near it stays to bfloat16, alone and with caching.

The pictures are those that `docs/quantization.md` tells of; pytest -s prints the figures.
"""

from typing import Any

import numpy as np
import pytest
import torch

from deepcache_trt import DeepCachePipeline
from deepcache_trt.benchmarks.fidelity.digit_reader import DigitReader, to_eight
from tests import tiny

pytestmark = pytest.mark.slow

SEEDS = 4
DEFAULT: dict[str, Any] = {"precision": "int8"}
BESIDE: dict[str, Any] = {**DEFAULT, "components": None, "quantize": ("vae:all", "text_encoder:all")}
PRECISIONS: dict[str, dict[str, Any]] = {
    "bf16": {},
    "int8": DEFAULT,
    "int8, VAE and text encoder": BESIDE,
    "int8, all": {**DEFAULT, "quantize": ("all",)},
}
SCHEDULES: dict[str, dict[str, Any]] = {
    "1": {"cache_interval": 1},
    "3": {"cache_interval": 3},
    "5": {"cache_interval": 5},
    "3, taylor1": {"cache_interval": 3, "forecast": "taylor1"},
    "5, taylor1": {"cache_interval": 5, "forecast": "taylor1"},
}
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def pictures(pipe: Any) -> np.ndarray:
    """The ten digits from four seeds, [40, H, W, 3] in 0…1."""
    pipe.set_progress_bar_config(disable=True)
    prompts = [f"a handwritten {word}" for word in WORDS]
    drawn = []
    for seed in range(SEEDS):
        generators = [torch.Generator().manual_seed(1000 * seed + i) for i in range(len(prompts))]
        drawn.append(pipe(prompts, num_inference_steps=50, generator=generators, output_type="np").images)
    return np.concatenate(drawn)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """The mean over pictures, in dB."""
    errors = ((a.astype(np.float64) - b) ** 2).mean(axis=(1, 2, 3))
    return float(np.mean(-10 * np.log10(errors + 1e-12)))


@pytest.fixture(scope="module")
def drawn() -> dict[tuple[str, str], np.ndarray]:
    plain = DeepCachePipeline.from_pretrained("digits", dtype=torch.bfloat16, backend="openvino", components=())
    return {
        (precision, schedule): pictures(DeepCachePipeline.from_pipe(plain, **options, **caching))
        for precision, options in PRECISIONS.items()
        for schedule, caching in SCHEDULES.items()
    }


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    """Plain diffusers in float32, uncached."""
    return pictures(tiny.digits())


def test_the_default_loses_less_than_a_decibel_to_bfloat16_at_interval_3(
    drawn: dict[tuple[str, str], np.ndarray], truth: np.ndarray
) -> None:
    found = {case: psnr(images, truth) for case, images in drawn.items()}
    for (precision, schedule), value in found.items():
        print(f"{precision:26} interval {schedule:12} {value:.2f} dB")
    assert found["int8", "3"] > found["bf16", "3"] - 1
    assert found["int8", "1"] > found["int8, all", "1"]


def test_the_decoder_and_the_text_encoder_lose_less_than_a_decibel_beside_that(
    drawn: dict[tuple[str, str], np.ndarray], truth: np.ndarray
) -> None:
    beside, alone = (psnr(drawn[precision, "3"], truth) for precision in ("int8, VAE and text encoder", "int8"))
    assert beside > alone - 1


def test_every_digit_is_read_as_what_was_asked_for(drawn: dict[tuple[str, str], np.ndarray]) -> None:
    reader, asked = DigitReader(), np.tile(np.arange(10), SEEDS)
    for case, images in drawn.items():
        eight = to_eight(images.transpose(0, 3, 1, 2))
        print(f"{case}: Fréchet distance {reader.frechet(eight):.2f}")
        assert reader.accuracy(eight, asked) == 1.0, case
