"""What a prompt can be besides a text: words that were learnt, and embeddings that someone else made or weighted."""

import itertools
from typing import Any

import pytest
import torch

from deepcache_trt import DeepCachePipeline
from tests.pipelines import micro
from tests.pipelines.drawing import difference

STEPS = 4
WIDTHS = {"sd": 32, "sdxl": 64}  # of a token's embedding, as the U-Net takes it


def new(name: str) -> Any:
    """A plain pipeline whose tokenizers and text encoders are its own, to be taught."""
    return micro.with_own(micro.STRAIGHT[name], "tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")


def cached(plain: Any, *, components: tuple[str, ...] | None = ()) -> Any:
    return DeepCachePipeline.from_pipe(plain, cache_interval=1, backend="onnxruntime", components=components)


def draw(pipe: Any, name: str, **call: Any) -> torch.Tensor:
    return micro.draw(pipe, micro.STRAIGHT[name], num_inference_steps=STEPS, **call)


def learnt(seed: int, *, vectors: int = 1) -> torch.Tensor:
    """What textual inversion makes of some pictures, [vectors, 32] float32."""
    return torch.randn(vectors, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("vectors", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_words_that_are_learnt_after_the_first_image_count(vectors: int) -> None:
    plain = new("sd")
    pipe = cached(plain, components=("text_encoder",))
    before = draw(pipe, "sd")
    pipe.load_textual_inversion({"<seven>": learnt(0, vectors=vectors)}, token="<seven>")
    found = draw(pipe, "sd", prompt="a handwritten <seven>")
    assert difference(found, draw(plain, "sd", prompt="a handwritten <seven>")) <= 1e-4
    assert difference(found, before) > 1e-3
    assert difference(draw(pipe, "sd"), before) <= 1e-5
    pipe.unload_textual_inversion()
    pipe.load_textual_inversion({"<seven>": learnt(1, vectors=vectors)}, token="<seven>")
    other = draw(pipe, "sd", prompt="a handwritten <seven>")
    assert difference(other, draw(plain, "sd", prompt="a handwritten <seven>")) <= 1e-4
    assert difference(other, found) > 1e-3


@pytest.mark.slow
def test_both_text_encoders_of_sdxl_learn_words() -> None:
    plain = new("sdxl")
    pipe = cached(plain, components=("text_encoder", "text_encoder_2"))
    before = draw(pipe, "sdxl")
    for part in ("", "_2"):
        encoder, words = getattr(pipe, f"text_encoder{part}"), getattr(pipe, f"tokenizer{part}")
        pipe.load_textual_inversion(learnt(0), token="<seven>", text_encoder=encoder, tokenizer=words)
    found = draw(pipe, "sdxl", prompt="a handwritten <seven>")
    assert difference(found, draw(plain, "sdxl", prompt="a handwritten <seven>")) <= 1e-4
    assert difference(found, before) > 1e-3


@pytest.mark.parametrize("name", WIDTHS)
def test_embeddings_of_any_length_take_turns_with_prompts(name: str) -> None:
    plain = micro.STRAIGHT[name].new()
    pipe = cached(plain)
    drawn = [draw(pipe, name)]
    generator = torch.Generator().manual_seed(0)
    for tokens in (77, 154, 77):
        embeds: dict[str, tuple[int, ...]] = {
            f"{sign}prompt_embeds": (tokens, WIDTHS[name]) for sign in ("", "negative_")
        }
        if name == "sdxl":
            embeds |= {f"{sign}pooled_prompt_embeds": (32,) for sign in ("", "negative_")}
        call = {key: torch.randn(1, *shape, generator=generator) for key, shape in embeds.items()}
        drawn.append(draw(pipe, name, prompt=None, **call))
        assert difference(drawn[-1], draw(plain, name, prompt=None, **call)) <= 1e-4
        weighted = {**call, "prompt_embeds": call["prompt_embeds"] * 1.3}
        drawn.append(draw(pipe, name, prompt=None, **weighted))
        assert difference(drawn[-1], draw(plain, name, prompt=None, **weighted)) <= 1e-4
    assert all(difference(one, other) > 1e-3 for one, other in itertools.pairwise(drawn))
    assert torch.equal(draw(pipe, name), drawn[0])
