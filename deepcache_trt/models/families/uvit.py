"""U-ViT (Bao et al. 2023) as `deepcache_trt.models.definitions.uvit` defines it: called and answered as a DiT is."""

from typing import Any

from deepcache_trt.models.architecture import Architecture, CallForm
from deepcache_trt.models.families.dit import DIT, of_classes
from deepcache_trt.models.families.family import Family
from deepcache_trt.models.taps import Tap


def uvit_taps(model: Any) -> tuple[Tap, ...]:
    """The taps of a U-ViT: the attention and MLP outputs of each block (Learning-to-Cache), in the order of blocks."""
    blocks = [f"in_blocks.{i}" for i in range(len(model.in_blocks))]
    blocks += ["mid_block", *(f"out_blocks.{i}" for i in range(len(model.out_blocks)))]
    return tuple(
        Tap(name=f"tap_{kind}_{i}", path=f"{block}.{module}", is_merged=True)
        for i, block in enumerate(blocks)
        for kind, module in (("mhsa", "attn"), ("mlp", "mlp"))
    )


def _describe(model: Any, dtype: str, form: CallForm) -> Architecture:
    return of_classes(model, dtype, uvit_taps(model), classes=model.label_emb.num_embeddings)


UVIT = Family(
    library="deepcache_trt.models.definitions.uvit",
    class_name="UViT",
    describe=_describe,
    is_denoiser=True,
    straight=DIT.straight,
)
