"""`digits-ddpm` is a DDPM in miniature: what it draws can be read, and what a broken cache does to it is seen."""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMPipeline

from deepcache_trt import DeepCachePipeline
from deepcache_trt.benchmarks.fidelity.digit_reader import DigitReader, real_digits, to_eight
from deepcache_trt.models.catalogue import resolve
from deepcache_trt.models.families.unet import unet_taps
from tests.reference import cached_by_hooks

FOLDER = Path(resolve("digits-ddpm"))
INTERVAL = 5
# Of 1,000 images by 50 steps; the floor is the Fréchet distance of the real training split.
CARD = {"frechet_test": 0.62, "read_with_confidence": 0.478, "diversity_ratio": 0.86, "nearest_training_image": 21.7}
FLOOR = 0.057


def pipeline() -> Any:
    pipe: Any = DDIMPipeline.from_pretrained(FOLDER, dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe: Any, count: int, *, steps: int) -> torch.Tensor:
    """Pictures (N, 3, 32, 32) in 0…1."""
    generators = [torch.Generator().manual_seed(i) for i in range(count)]
    pictures: torch.Tensor = pipe(count, num_inference_steps=steps, generator=generators, output_type="pt").images
    return pictures


def test_it_has_the_topology_of_ddpm() -> None:
    unet = pipeline().unet
    assert len(unet.config.block_out_channels) == 3
    assert len(unet_taps(unet)) == 9
    assert [kind for kind in unet.config.down_block_types if "Attn" in kind] == ["AttnDownBlock2D"]


def test_it_draws_different_digits() -> None:
    """Nearer to real digits than blends of two of them."""
    _, test = real_digits()
    reader, images = DigitReader(), to_eight(drawn(pipeline(), 40, steps=20).numpy())
    blends = (test.images[:40] + test.images[40:80]) / 2
    assert reader.frechet(images, test.images) < reader.frechet(blends, test.images)
    assert len(set(reader.read(images))) >= 7


def test_its_cached_pictures_are_those_of_plain_pytorch(store_root: Path) -> None:
    ours: Any = DeepCachePipeline.from_pretrained(
        "digits-ddpm", cache_interval=3, dtype=torch.float32, backend="onnxruntime", store=store_root
    )
    ours.set_progress_bar_config(disable=True)
    plain = pipeline()
    with cached_by_hooks(plain.unet, lambda call: call % 3 == 0):
        expected = drawn(plain, 2, steps=6)
    assert torch.allclose(drawn(ours, 2, steps=6), expected, atol=1e-4)
    assert ours.last_run.way == "whole loop"


@pytest.mark.slow
def test_a_cache_of_zeros_is_seen_by_the_frechet_distance() -> None:
    """The control of every figure of quality: reuse costs a little, and nothing in the place of the tensor a lot."""
    _, test = real_digits()
    reader, pipe = DigitReader(), pipeline()

    def distance(replace: Callable[[torch.Tensor], torch.Tensor] | None) -> float:
        cache = cached_by_hooks(pipe.unet, lambda call: call % INTERVAL == 0, replace=replace) if replace else None
        with cache or nullcontext():
            return reader.frechet(to_eight(drawn(pipe, 200, steps=50).numpy()), test.images)

    uncached, reused, zeroed = distance(None), distance(lambda kept: kept), distance(torch.zeros_like)
    assert reused < uncached + 1
    assert zeroed > 3 * reused


@pytest.mark.slow
def test_the_figures_of_its_card() -> None:
    """1,000 images by 50 steps, beside the real test split."""
    script = Path(__file__).parents[2] / "scripts" / "train_digits_ddpm.py"
    output = subprocess.run(
        [sys.executable, script, "evaluate", FOLDER], check=True, capture_output=True, text=True
    ).stdout
    figures = json.loads(output[output.index("{") :])
    assert {name: figures["50 steps"][name] for name in CARD} == pytest.approx(CARD, rel=0.1)
    assert figures["real"]["frechet_test"] == pytest.approx(FLOOR, rel=0.01)
