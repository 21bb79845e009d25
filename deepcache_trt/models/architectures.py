"""What this project knows about each part of a pipeline: its inputs, outputs, taps and the sizes it takes.

The names and shapes of graph inputs and outputs are written down in the modules named here and nowhere else.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models import denoisers, text_encoders, vae
from deepcache_trt.models.ip_adapter import ImageShapes, ip_adapter_inputs
from deepcache_trt.models.part import OUTPUT, Architecture, part_dtype

__all__ = ["COVERED", "OUTPUT", "Architecture", "architecture_of", "part_dtype"]

_DESCRIBE: dict[str, Callable[[Any, str], Architecture]] = {
    "UNet2DConditionModel": denoisers.unet_condition,
    "UNet2DModel": denoisers.unet_2d,
    "UNetSpatioTemporalConditionModel": denoisers.unet_spatio_temporal,
    "DiTTransformer2DModel": denoisers.dit,
    "AutoencoderKL": vae.vae_decoder,
    "CLIPTextModel": text_encoders.text_encoder,
    "CLIPTextModelWithProjection": text_encoders.text_encoder,
}

_DESCRIBE_CONTROLLED: dict[str, Callable[[Any, str], Architecture]] = {
    "UNet2DConditionModel": denoisers.controlled_unet_condition,
}

COVERED = tuple(_DESCRIBE)


def architecture_of(model: Any, *, dtype: str, controlled: bool = False, images: ImageShapes = ()) -> Architecture:
    """Describe `model` as a graph.

    Args:
        model: may be on fake tensors.
        dtype: of its weights.
        controlled: called with the residuals of a ControlNet, which makes another graph of it.
        images: the shapes of the embeddings that its IP-Adapters are called with, if it has any.

    Raises:
        UnsupportedError: a model class or block type that is not covered.
    """
    kind, described = type(model).__name__, _DESCRIBE_CONTROLLED if controlled else _DESCRIBE
    if kind not in described:
        called = f"{kind} with ControlNet residuals" if controlled else kind
        raise UnsupportedError(f"{called} is not covered; covered are {', '.join(described)}")
    architecture = described[kind](model, dtype)
    if not images:
        return architecture
    return replace(architecture, inputs=(*architecture.inputs, *ip_adapter_inputs(model, dtype, images)))
