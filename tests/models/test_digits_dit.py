"""`digits-dit` is a DiT in miniature: plain diffusers draws with it the digit that is asked for."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiTPipeline

from deepcache_trt.benchmarks.fidelity.digit_reader import DigitReader, to_eight
from deepcache_trt.models.catalogue import resolve
from deepcache_trt.models.families.dit import dit_taps

FOLDER = Path(resolve("digits-dit"))
NULL = 1000
# By the scale of guidance: the share that is read as asked for, and the Fréchet distance.
CARD = {4.0: (1.000, 1.13), 1.5: (0.989, 1.04)}


@cache
def pipeline() -> Any:
    pipe: Any = DiTPipeline.from_pretrained(FOLDER, dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(labels: list[int], *, guidance: float, steps: int) -> np.ndarray:
    """Images (N, 8, 8) in 0…16."""
    generators = [torch.Generator().manual_seed(i) for i in range(len(labels))]
    call = {"guidance_scale": guidance, "num_inference_steps": steps, "generator": generators}
    return to_eight(pipeline()(labels, output_type="pt", **call).images.numpy())


def test_it_has_the_topology_of_dit() -> None:
    model = pipeline().transformer
    assert len(model.transformer_blocks) == 12
    assert len(dit_taps(model)) == 24
    assert (model.config.sample_size // model.config.patch_size) ** 2 == 16
    assert model.config.norm_type == "ada_norm_zero"


def test_digits_have_names_and_numerals() -> None:
    assert pipeline().get_label_ids(["seven", "0"]) == [7, 0]
    assert pipeline().get_label_ids("07") == [0, 7]  # diffusers makes a list of a text


def test_it_draws_what_is_asked_for() -> None:
    labels = [*range(10)] * 2
    assert DigitReader().accuracy(drawn(labels, guidance=4.0, steps=10), np.array(labels)) >= 0.9  # by chance: 0.1


def test_what_is_no_digit_is_any_digit() -> None:
    """Of the thousand classes that DiTPipeline counts, those that mean nothing are like none."""
    assert np.array_equal(drawn([500], guidance=1.0, steps=3), drawn([NULL], guidance=1.0, steps=3))


def test_every_block_has_the_same_embeddings() -> None:
    first, *others = (block.norm1.emb.state_dict() for block in pipeline().transformer.transformer_blocks)
    for other in others:
        assert all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.slow
def test_the_figures_of_its_card() -> None:
    """Those by 20 steps, of 1,000 images at each scale."""
    script = Path(__file__).parents[2] / "scripts" / "train_digits_dit.py"
    output = subprocess.run(
        [sys.executable, script, "evaluate", FOLDER, "--steps", "20"], check=True, capture_output=True, text=True
    ).stdout
    figures = json.loads(output[output.index("{") :])
    for guidance, (accuracy, frechet) in CARD.items():
        found = figures[f"guidance {guidance}, 20 steps"]
        assert found["accuracy"] == pytest.approx(accuracy, abs=0.01)
        assert found["frechet_test"] == pytest.approx(frechet, rel=0.1)
