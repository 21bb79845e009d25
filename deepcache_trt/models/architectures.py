"""What this project knows about each part of a pipeline: its inputs, outputs, taps and the sizes it takes.

The names and shapes of graph inputs and outputs are written down in the modules named here and nowhere else.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models import controlnet, denoisers, text_encoders, vae
from deepcache_trt.models.ip_adapter import ip_adapter_inputs
from deepcache_trt.models.part import AS_CONFIGURED, OUTPUT, Architecture, CallForm, part_dtype

__all__ = ["COVERED", "COVERED_DENOISERS", "OUTPUT", "Architecture", "CallForm", "architecture_of", "part_dtype"]

_DENOISERS: dict[str, Callable[[Any, str], Architecture]] = {
    "UNet2DConditionModel": denoisers.unet_condition,
    "UNet2DModel": denoisers.unet_2d,
    "UNetSpatioTemporalConditionModel": denoisers.unet_spatio_temporal,
    "DiTTransformer2DModel": denoisers.dit,
}

_DESCRIBE: dict[str, Callable[[Any, str], Architecture]] = {
    **_DENOISERS,
    "ControlNetModel": controlnet.controlnet,
    "AutoencoderKL": vae.vae_decoder,
    "AutoencoderKLTemporalDecoder": vae.temporal_decoder,
    "CLIPTextModel": text_encoders.text_encoder,
    "CLIPTextModelWithProjection": text_encoders.text_encoder,
}

_DESCRIBE_CONTROLLED: dict[str, Callable[[Any, str], Architecture]] = {
    "UNet2DConditionModel": denoisers.controlled_unet_condition,
}

COVERED, COVERED_DENOISERS = tuple(_DESCRIBE), tuple(_DENOISERS)


def architecture_of(model: Any, *, dtype: str, form: CallForm = AS_CONFIGURED) -> Architecture:
    """Describe `model` as a graph.

    Args:
        model: may be on fake tensors.
        dtype: of its weights.
        form: how it is called, if that is not how every model of its config can be.

    Raises:
        UnsupportedError: a model class or block type that is not covered.
    """
    kind, described = type(model).__name__, _DESCRIBE_CONTROLLED if form.controlled else _DESCRIBE
    if kind not in described:
        called = f"{kind} with ControlNet residuals" if form.controlled else kind
        raise UnsupportedError(f"{called} is not covered; covered are {', '.join(described)}")
    architecture = described[kind](model, dtype)
    if form.frames is not None:
        architecture = denoisers.unet_spatio_temporal(model, dtype, form.frames)
    return replace(architecture, inputs=(*architecture.inputs, *ip_adapter_inputs(model, dtype, form.images)))
