"""The layout of U-ViT's checkpoints (baofff/U-ViT), whose names our definition of the model keeps."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deepcache_trt.models.originals.original import Original

if TYPE_CHECKING:
    import torch


def rename(tensors: "Mapping[str, torch.Tensor]", config: Mapping[str, Any]) -> "dict[str, torch.Tensor]":
    """The same tensors."""
    return dict(tensors)


UVIT = Original(
    code="U-ViT",
    pipeline="DiTPipeline",
    parts={"transformer": rename},
    scheduler=(
        "DPMSolverMultistepScheduler",
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    ),
    wants_vae=True,
)
