"""`digits-dit` is a DiT in miniature: plain diffusers draws with it the digit that is asked for."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiTPipeline

from deepcache_trt.benchmarks.fidelity.digit_reader import DigitReader, to_eight
from deepcache_trt.models.catalogue import resolve
from deepcache_trt.models.families.dit import dit_taps

FOLDER = Path(resolve("digits-dit"))
NULL = 1000


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
