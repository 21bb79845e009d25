"""The denoiser of a checkpoint, quantized: commands that build ahead have no pipeline until one is loaded for this."""

from collections.abc import Sequence

import torch

from deepcache_trt.builder.component import DENOISERS, Component, from_model
from deepcache_trt.builder.model_source import ModelSource
from deepcache_trt.builder.plain_pipeline import load_pipeline
from deepcache_trt.builder.quantized.quantized_component import quantized
from deepcache_trt.builder.quantized.seeded import seeded_calibration
from deepcache_trt.export.precision import precision_of
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
    """The components with their denoiser quantized, as a live pipeline of the checkpoint would have it.

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
    if precision is None:
        return [*components]
    found = []
    for component in components:
        if component.part in DENOISERS and source is None:
            component = quantized(component, policy, precision, options.quantize or (), seeded_calibration(component))
        elif component.part in DENOISERS and source is not None:
            component = _drawn(component, source, policy, options, dtype=dtype, device=device)
        found.append(component)
    return found


def _drawn(
    component: Component, source: ModelSource, policy: Policy, options: EngineOptions, *, dtype: str, device: str
) -> Component:
    from diffusers import DiffusionPipeline

    arguments = {"dtype": getattr(torch, dtype), **source.pretrained_arguments()}
    pipe = load_pipeline(DiffusionPipeline, source.model, arguments).to(device)
    live = from_model(getattr(pipe, component.part), name=component.name, part=component.part)
    return quantized_component(pipe, live, policy, options)
