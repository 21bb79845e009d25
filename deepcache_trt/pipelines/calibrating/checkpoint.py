"""A checkpoint's components, quantized: commands that build ahead have no pipeline until one is loaded for this."""

from collections.abc import Sequence
from typing import Any

import torch

from deepcache_trt.builder.component import DENOISERS, Component, from_model
from deepcache_trt.builder.model_source import ModelSource
from deepcache_trt.builder.plain_pipeline import load_pipeline
from deepcache_trt.builder.quantized.quantized_component import quantized
from deepcache_trt.builder.quantized.seeded import seeded_calibration
from deepcache_trt.export.precision import precision_of
from deepcache_trt.pipelines.calibrating.beside import as_asked
from deepcache_trt.pipelines.calibrating.on_torch import quantized_component
from deepcache_trt.pipelines.engine_options import EngineOptions
from deepcache_trt.runtime.policies import Policy


def quantized_checkpoint(
    components: Sequence[Component],
    source: ModelSource | None,
    policy: Policy,
    options: EngineOptions,
    *,
    dtype: str,
    device: str,
) -> list[Component]:
    """The components as a live pipeline of the checkpoint would have them: quantized where the options say so.

    Args:
        components: of the checkpoint.
        source: where it comes from; None: their weights are random ones.
        policy: how the denoiser will be cached.
        options: whose precision may be None: nothing is quantized then.
        dtype: of the pipeline.
        device: "cpu" or "cuda", to draw on.

    Raises:
        CheckpointError: the pipeline cannot be loaded.
        DeepCacheError: there are no prompts to draw.
        UnknownNameError: the policy wants a tap that the denoiser lacks.
    """
    precision = precision_of(options.precision)
    asked = {component.part: options.patterns(component.part) for component in components}
    pipe = None
    if source is not None and any(patterns is not None for patterns in asked.values()):
        pipe = _pipeline(source, dtype=dtype, device=device)
    found = []
    for component in components:
        patterns = asked[component.part]
        if precision is None or patterns is None:
            found.append(component)
        elif pipe is None:
            found.append(quantized(component, policy, precision, patterns, seeded_calibration(component)))
        elif component.part in DENOISERS:
            live = from_model(getattr(pipe, component.part), name=component.name, part=component.part)
            found.append(quantized_component(pipe, live, policy, options))
        else:
            found.append(as_asked(pipe, component, options))
    return found


def _pipeline(source: ModelSource, *, dtype: str, device: str) -> Any:
    from diffusers import DiffusionPipeline

    arguments = {"dtype": getattr(torch, dtype), **source.pretrained_arguments()}
    return load_pipeline(DiffusionPipeline, source.model, arguments).to(device)
