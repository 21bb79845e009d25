"""Which families there are, and which one a model belongs to."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models.architecture import AS_CONFIGURED, Architecture, CallForm
from deepcache_trt.models.families.clip_text import CLIP_TEXT, CLIP_TEXT_WITH_PROJECTION
from deepcache_trt.models.families.controlnet import CONTROLNET
from deepcache_trt.models.families.decoders.autoencoder_kl import AUTOENCODER_KL
from deepcache_trt.models.families.decoders.autoencoder_kl_temporal import AUTOENCODER_KL_TEMPORAL
from deepcache_trt.models.families.decoders.autoencoder_tiny import AUTOENCODER_TINY
from deepcache_trt.models.families.decoders.vq_model import VQ_MODEL
from deepcache_trt.models.families.dit import DIT
from deepcache_trt.models.families.family import Family, upcast_if_stated
from deepcache_trt.models.families.unet_2d import UNET_2D
from deepcache_trt.models.families.unet_2d_condition import UNET_2D_CONDITION
from deepcache_trt.models.families.unet_spatio_temporal import UNET_SPATIO_TEMPORAL
from deepcache_trt.models.families.uvit import UVIT

FAMILIES: tuple[Family, ...] = (
    UNET_2D_CONDITION,
    UNET_2D,
    UNET_SPATIO_TEMPORAL,
    DIT,
    UVIT,
    CONTROLNET,
    AUTOENCODER_KL,
    AUTOENCODER_KL_TEMPORAL,
    AUTOENCODER_TINY,
    VQ_MODEL,
    CLIP_TEXT,
    CLIP_TEXT_WITH_PROJECTION,
)

_BY_CLASS = {family.class_name: family for family in FAMILIES}

# The classes of models that pipelines run on engines.
COVERED = tuple(_BY_CLASS)
COVERED_DENOISERS = tuple(family.class_name for family in FAMILIES if family.is_denoiser)


def family_of(class_name: str) -> Family:
    """The family of a class.

    Raises:
        UnsupportedError: there is none.
    """
    if class_name not in _BY_CLASS:
        raise UnsupportedError(f"{class_name} is not covered; covered are {', '.join(COVERED)}")
    return _BY_CLASS[class_name]


def architecture_of(model: Any, *, dtype: str, form: CallForm = AS_CONFIGURED) -> Architecture:
    """Describe `model` as a graph.

    Args:
        model: may be on fake tensors.
        dtype: of its weights.
        form: how it is called, if that is not how every model of its config can be.

    Raises:
        UnsupportedError: a model class or block type that is not covered.
    """
    family = family_of(type(model).__name__)
    if form.controlled and not family.is_controllable:
        can_be = ", ".join(each.class_name for each in FAMILIES if each.is_controllable)
        raise UnsupportedError(f"{family.class_name} with ControlNet residuals is not covered; covered are {can_be}")
    return replace(family.describe(model, dtype, form), module=family.module)


def covered_models(path: str, component: Any) -> dict[str, Family]:
    """Where the models in a pipeline's component are that run on engines: itself, or each that a container holds.

    Args:
        path: of the component from the pipeline.
        component: whatever the pipeline has there.

    Returns:
        Their families, by their paths from the pipeline.
    """
    kind = type(component).__name__
    models = {path: component}
    for family in FAMILIES:
        if attribute := family.containers.get(kind):
            models = {f"{path}.{attribute}.{i}": model for i, model in enumerate(getattr(component, attribute))}
    kinds = {where: type(model).__name__ for where, model in models.items()}
    return {where: _BY_CLASS[kind] for where, kind in kinds.items() if kind in COVERED}


def part_dtype(config: Mapping[str, Any], dtype: str) -> str:
    """The precision to build a model of this config in where its pipeline is in `dtype`."""
    family = _BY_CLASS.get(config.get("_class_name", ""))
    return upcast_if_stated(config, dtype) if family is None else family.dtype(config, dtype)
