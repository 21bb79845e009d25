"""The text encoders of CLIP in transformers."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from deepcache_trt.models.architecture import MAX_IMAGES, Architecture, CallForm, Tokens, in_form, output_of
from deepcache_trt.models.families.family import Family
from deepcache_trt.tensors import TensorSpec

if TYPE_CHECKING:
    import torch

# Followed by a number: 0 are the embeddings, i what layer i gives; the last has not been through the final norm.
HIDDEN_STATE = "hidden_state_"


def _describe(pooled: str, output_class: str, model: Any, dtype: str, form: CallForm) -> Architecture:
    """All hidden states are outputs: SDXL reads the last but one, `clip_skip` any.

    Args:
        pooled: what the model calls the one vector that it gives for a text.
        output_class: of what it returns.
        model: as in `Family`.
        dtype: as in `Family`.
        form: as in `Family`.
    """
    config = model.config
    tokens, width = config.max_position_embeddings, config.hidden_size
    pooled_width = config.projection_dim if hasattr(model, "text_projection") else width
    states = ["last_hidden_state", *_hidden_states(model)]
    return Architecture(
        # Pipelines pad every prompt to the full length.
        inputs=(TensorSpec(name="input_ids", dtype="int64", shape=("batch", tokens)),),
        outputs=(
            TensorSpec(name=pooled, dtype=dtype, shape=("batch", pooled_width)),
            *(TensorSpec(name=name, dtype=dtype, shape=("batch", tokens, width)) for name in states),
        ),
        call=partial(_call, pooled),
        answer=partial(_answer, output_class),
        read=_read,
        max_batch=MAX_IMAGES,
        rows={"input_ids": model.get_input_embeddings().num_embeddings},
        # Old configs say 2 and mean the highest id of the vocabulary (transformers, pull request 24773).
        tokens=Tokens(
            vocabulary=config.vocab_size,
            end=config.vocab_size - 1 if config.eos_token_id == 2 else config.eos_token_id,
        ),
    )


def _hidden_states(model: Any) -> list[str]:
    """By the layers that there are: people take the last ones away, and transformers runs those that are left."""
    layers = getattr(model, "text_model", model).encoder.layers
    return [f"{HIDDEN_STATE}{i}" for i in range(len(layers) + 1)]


def _call(pooled: str, model: Any, tensors: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    output = model(tensors["input_ids"], output_hidden_states=True, return_dict=True)
    states = {f"{HIDDEN_STATE}{i}": state for i, state in enumerate(output.hidden_states)}
    return {pooled: output[pooled], "last_hidden_state": output.last_hidden_state, **states}


def _read(architecture: Architecture, model: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """A text encoder that is told to attend to all of the text does nothing else."""
    mask = arguments.get("attention_mask")
    is_trivial = mask is None or bool(mask.all())
    return {name: value for name, value in arguments.items() if name != "attention_mask" or not is_trivial}


def _answer(output_class: str, model: Any, outputs: Mapping[str, "torch.Tensor"], arguments: Mapping[str, Any]) -> Any:
    fields: dict[str, Any] = {name: tensor for name, tensor in outputs.items() if not name.startswith(HIDDEN_STATE)}
    if arguments.get("output_hidden_states", model.config.output_hidden_states):
        fields["hidden_states"] = tuple(outputs[name] for name in _hidden_states(model))
    return in_form(output_of(model, output_class)(**fields), arguments, default=model.config.return_dict)


CLIP_TEXT = Family(
    library="transformers",
    class_name="CLIPTextModel",
    describe=partial(_describe, "pooler_output", "BaseModelOutputWithPooling"),
)

CLIP_TEXT_WITH_PROJECTION = Family(
    library="transformers",
    class_name="CLIPTextModelWithProjection",
    describe=partial(_describe, "text_embeds", "CLIPTextModelOutput"),
)
