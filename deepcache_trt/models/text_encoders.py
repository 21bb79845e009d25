"""The text encoders of transformers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deepcache_trt.models.part import MAX_IMAGES, Architecture, Tokens
from deepcache_trt.tensors import TensorSpec

if TYPE_CHECKING:
    import torch

# Followed by a number: 0 are the embeddings, i what layer i gives; the last has not been through the final norm.
HIDDEN_STATE = "hidden_state_"


def text_encoder(model: Any, dtype: str) -> Architecture:
    """CLIPTextModel and CLIPTextModelWithProjection.

    All hidden states are outputs: SDXL reads the last but one, `clip_skip` any.
    """
    config = model.config
    tokens, width = config.max_position_embeddings, config.hidden_size
    projects = hasattr(model, "text_projection")
    pooled = ("text_embeds", config.projection_dim) if projects else ("pooler_output", width)
    states = ["last_hidden_state", *(f"{HIDDEN_STATE}{i}" for i in range(config.num_hidden_layers + 1))]
    return Architecture(
        # Pipelines pad every prompt to the full length.
        inputs=(TensorSpec(name="input_ids", dtype="int64", shape=("batch", tokens)),),
        outputs=(
            TensorSpec(name=pooled[0], dtype=dtype, shape=("batch", pooled[1])),
            *(TensorSpec(name=name, dtype=dtype, shape=("batch", tokens, width)) for name in states),
        ),
        call=_call_text_encoder,
        max_batch=MAX_IMAGES,
        # Old configs say 2 and mean the highest id of the vocabulary (transformers, pull request 24773).
        tokens=Tokens(
            vocabulary=config.vocab_size,
            end=config.vocab_size - 1 if config.eos_token_id == 2 else config.eos_token_id,
        ),
    )


def _call_text_encoder(model: Any, tensors: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    found = model(tensors["input_ids"], output_hidden_states=True, return_dict=True)
    pooled = "text_embeds" if "text_embeds" in found else "pooler_output"
    states = {f"{HIDDEN_STATE}{i}": state for i, state in enumerate(found.hidden_states)}
    return {pooled: found[pooled], "last_hidden_state": found.last_hidden_state, **states}
