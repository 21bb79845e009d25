"""The components beside the denoiser, quantized where they are asked for: decoders and text encoders."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from deepcache_trt.builder.component import Component
from deepcache_trt.foreign import Pipeline
from deepcache_trt.pipelines.calibrating.drawing import quantized_as_drawn
from deepcache_trt.pipelines.engine_options import EngineOptions


def as_asked(pipe: Pipeline, component: Component, options: EngineOptions) -> Component:
    """A component of a pipeline, quantized if the options name layers of it.

    What it is given as the pipeline draws does not depend on how the denoiser is cached, but for what the cache loses:
    it is observed while nothing is cached, so that every schedule has the same engines.

    Args:
        pipe: that it is of.
        component: beside the denoiser, with adapters merged.
        options: that may have a precision.

    Raises:
        DeepCacheError: there are no prompts to draw.
    """
    return quantized_as_drawn(pipe, component, options, policy=None, within=partial(_with, component=component))


@contextmanager
def _with(pipe: Pipeline, *, component: Component) -> Iterator[Mapping[str, torch.Tensor]]:
    """Let a copy of the pipeline run the component's own module."""
    module: Any = component.module()
    setattr(pipe, component.part, _taking_any_dtype(module) if hasattr(module, "decode") else module)
    yield module.state_dict()


def _taking_any_dtype(decoder: Any) -> Any:
    """The same decoder, for latents in any dtype: one that overflows in half is in float32, and its pipeline is not."""
    taking = copy.copy(decoder)
    dtype, decode = next(decoder.parameters()).dtype, type(decoder).decode

    def cast_and_decode(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return decode(taking, latents.to(dtype), *args, **kwargs)

    taking.decode = cast_and_decode
    return taking
