"""What this project knows about each part of a pipeline: its inputs, outputs, taps and the sizes it takes.

The names and shapes of graph inputs and outputs are written down in the modules named here and nowhere else.
"""

from collections.abc import Callable
from typing import Any

from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models import denoisers, text_encoders, vae
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

COVERED = tuple(_DESCRIBE)


def architecture_of(model: Any, *, dtype: str) -> Architecture:
    """Describe `model`, which may be on fake tensors; `dtype` is that of its weights.

    Raises:
        UnsupportedError: a model class or block type that is not covered.
    """
    kind = type(model).__name__
    if kind not in _DESCRIBE:
        raise UnsupportedError(f"{kind} is not covered; covered are {', '.join(_DESCRIBE)}")
    return _DESCRIBE[kind](model, dtype)
