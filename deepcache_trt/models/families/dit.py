"""DiTTransformer2DModel (Peebles and Xie 2023): made for one size; masks of its sublayers are cached, not branches."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deepcache_trt.models.architecture import MAX_IMAGES, OUTPUT, Architecture, CallForm, answer_as, prediction, sides
from deepcache_trt.models.families.family import Family
from deepcache_trt.models.taps import Tap
from deepcache_trt.tensors import LATENT_PIXELS, TensorSpec

if TYPE_CHECKING:
    import torch


def dit_taps(model: Any) -> tuple[Tap, ...]:
    """The taps of a DiT: the attention and MLP outputs of each block, before their gates (Learning-to-Cache)."""
    return tuple(
        Tap(name=f"tap_{kind}_{i}", path=f"transformer_blocks.{i}.{module}", is_merged=True)
        for i in range(len(model.transformer_blocks))
        for kind, module in (("mhsa", "attn1"), ("mlp", "ff"))
    )


def of_classes(model: Any, dtype: str, taps: tuple[Tap, ...], *, classes: int) -> Architecture:
    """A transformer that is called as a DiT is: of noisy latents of one size, timesteps and labels of classes.

    Args:
        model: as in `Family`.
        dtype: as in `Family`.
        taps: of it.
        classes: how many labels it has an embedding of; the last one is none, which guidance uses.
    """
    config = model.config
    # The table of positions is a constant, or weights, of one size.
    size = config.sample_size
    return Architecture(
        inputs=(
            TensorSpec(name="sample", dtype=dtype, shape=("batch", config.in_channels, size, size)),
            # Whole numbers as a rule, but not with every scheduler; the model embeds them as float32.
            TensorSpec(name="timestep", dtype="float32", shape=("batch",)),
            TensorSpec(name="class_labels", dtype="int64", shape=("batch",)),
        ),
        outputs=prediction(dtype, config.out_channels or config.in_channels, size, size),
        call=_call,
        answer=answer_as("Transformer2DModelOutput"),
        read=_read,
        taps=taps,
        rows={"class_labels": classes},
        size_multiple=0,
        max_batch=MAX_IMAGES,
        fixed_size=size,
        pixels=LATENT_PIXELS,
        own_size=sides(size, LATENT_PIXELS),
    )


def _describe(model: Any, dtype: str, form: CallForm) -> Architecture:
    table = model.transformer_blocks[0].norm1.emb.class_embedder.embedding_table
    return of_classes(model, dtype, dit_taps(model), classes=table.num_embeddings)


def _read(architecture: Architecture, model: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    return {{"hidden_states": "sample"}.get(name, name): value for name, value in arguments.items()}


def _call(model: Any, tensors: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    (predicted,) = model(
        tensors["sample"], timestep=tensors["timestep"], class_labels=tensors["class_labels"], return_dict=False
    )
    return {OUTPUT: predicted}


DIT = Family(
    library="diffusers",
    class_name="DiTTransformer2DModel",
    describe=_describe,
    is_denoiser=True,
    straight=frozenset({"DiTPipeline", "OriginalDiTPipeline"}),
)
