"""What is written past torch's counter, be it one element of any parameter or buffer, is seen at the next image."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcache_trt import DeepCachePipeline
from deepcache_trt.pipelines.material import version_of
from tests.pipelines import micro_parts
from tests.pipelines.drawing import difference
from tests.pipelines.weights import own_models

UNET = micro_parts.unet("sd")
TENSORS = [*UNET.parameters(), *UNET.buffers()]
NAMES = [*dict(UNET.named_parameters()), *dict(UNET.named_buffers())]


@settings(deadline=None)
@given(st.sampled_from(NAMES), st.integers(min_value=0))
def test_one_element_of_any_tensor_makes_another_version_and_back(name: str, place: int) -> None:
    tensor = dict([*UNET.named_parameters(), *UNET.named_buffers()])[name]
    before, flat = version_of(UNET, TENSORS), tensor.data.view(-1)
    kept = flat[place % len(flat)].clone()
    flat[place % len(flat)] = kept + 1
    assert version_of(UNET, TENSORS) != before
    flat[place % len(flat)] = kept
    assert version_of(UNET, TENSORS) == before


def by_row(weight: Any, value: float) -> None:
    weight.data[1] = value


def by_element(weight: Any, value: float) -> None:
    weight.data[1, 2] = 10 * value


def by_numpy(weight: Any, value: float) -> None:
    np.asarray(weight.detach())[1] = value


@pytest.mark.parametrize("write", [by_row, by_element, by_numpy])
def test_what_is_written_past_the_counter_counts_each_time(write: Any) -> None:
    plain = own_models.fresh()
    pipe = DeepCachePipeline.from_pipe(plain, cache_interval=1, backend="onnxruntime", components=())
    weight = plain.unet.conv_in.weight
    drawn = [own_models.draw(pipe)]
    for value in (0.5, -0.7):
        write(weight, value)
        drawn.append(own_models.draw(pipe))
        assert difference(drawn[-1], own_models.draw(plain)) <= 1e-4
        assert difference(drawn[-1], drawn[-2]) > 1e-3


def test_a_word_that_is_learnt_anew_counts() -> None:
    """As a textual inversion that goes on being trained writes it."""
    plain = own_models.fresh()
    pipe = DeepCachePipeline.from_pipe(plain, cache_interval=1, backend="onnxruntime", components=("text_encoder",))
    embedding = plain.text_encoder.get_input_embeddings().weight
    token = plain.tokenizer("a handwritten seven").input_ids[1]
    for seed in (0, 1):
        vector = torch.randn(embedding.shape[1], generator=torch.Generator().manual_seed(seed))
        embedding.data[token] = vector
        assert difference(own_models.draw(pipe), own_models.draw(plain)) <= 1e-4


def test_a_buffer_that_no_checkpoint_has_counts() -> None:
    plain = own_models.fresh()
    pipe = DeepCachePipeline.from_pipe(plain, cache_interval=1, backend="onnxruntime", components=("text_encoder",))
    before = own_models.draw(pipe)
    (positions,) = (buffer for name, buffer in plain.text_encoder.named_buffers() if name.endswith("position_ids"))
    positions.data[0, 2] = 7
    changed = own_models.draw(plain)
    assert difference(changed, before) > 1e-3
    assert difference(own_models.draw(pipe), changed) <= 1e-4
    positions.data[0, 2] = 2
    assert torch.equal(own_models.draw(pipe), before)
