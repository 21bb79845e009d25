"""The bundled model is small, complete, and good enough to judge caching by."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deepcache_trt.models.catalogue import resolve
from tests import tiny

FOLDER = Path(resolve("digits"))


def test_it_has_the_topology_of_stable_diffusion_15() -> None:
    pipe = tiny.digits()
    assert len(pipe.unet.config.block_out_channels) == 4
    assert pipe.unet.config.layers_per_block == 2
    assert sum(len(block.resnets) for block in pipe.unet.up_blocks) == 12
    assert {type(getattr(pipe, part)).__name__ for part in ("vae", "text_encoder", "unet")} == {
        "AutoencoderKL",
        "CLIPTextModel",
        "UNet2DConditionModel",
    }


@pytest.mark.slow
def test_a_classifier_reads_the_prompted_digit_and_the_shapes_vary() -> None:
    """500 images by 50 steps at diffusers' default guidance; the gates that the model card reports on."""
    script = Path(__file__).parents[2] / "scripts" / "train_digits.py"
    command: list[str | Path] = [sys.executable, script, "evaluate", FOLDER, "--images", "500", "--guidance", "7.5"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures = json.loads(output[output.index("{") :])["guidance 7.5"]
    assert figures["accuracy"] >= 0.95
    assert figures["diversity_ratio_min"] >= 0.5
