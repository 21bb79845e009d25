"""From an artefact of the store to an engine that runs."""

from functools import partial

import torch

from deepcache_trt.builder.component import Component
from deepcache_trt.builder.target import Target
from deepcache_trt.engines.engine import Engine
from deepcache_trt.engines.onnxruntime import OnnxRuntimeEngine, TensorRtProvider
from deepcache_trt.engines.openvino import OpenVinoEngine
from deepcache_trt.engines.profile import ShapeProfile
from deepcache_trt.engines.store import Artefact
from deepcache_trt.engines.tensorrt import TensorRTEngine
from deepcache_trt.engines.torch import Mode, TensorFunction, TorchEngine
from deepcache_trt.export import parity
from deepcache_trt.models.part import Architecture
from deepcache_trt.models.taps import Variant
from deepcache_trt.models.traceable import traceable
from deepcache_trt.tensors import TensorSpec

# What an engine's folder holds, by backend: a graph with its weights, or a plan.
ENGINE_GRAPH, PLAN = "engine.onnx", "engine.plan"


def open_engine(component: Component, variant: Variant, artefact: Artefact, target: Target) -> Engine:
    """Load one variant; the caller closes it."""
    inputs = {data["name"]: TensorSpec.from_json(data) for data in artefact.about["inputs"]}
    outputs = {data["name"]: TensorSpec.from_json(data) for data in artefact.about["outputs"]}
    match target.backend:
        case "tensorrt" | "tensorrt-rtx":
            return TensorRTEngine(
                artefact.folder / PLAN,
                backend=target.backend,
                inputs=inputs,
                outputs=outputs,
                profiles=profiles_of(artefact),
                runtime_cache=target.cache("kernels", artefact.key),
            )
        case "onnxruntime":
            return OnnxRuntimeEngine(artefact.folder / ENGINE_GRAPH, device=target.device)
        case "onnxruntime-tensorrt":
            provider = TensorRtProvider(
                cache=target.cache("engines", artefact.key), inputs=inputs, profiles=profiles_of(artefact)
            )
            return OnnxRuntimeEngine(artefact.folder / ENGINE_GRAPH, device=target.device, tensorrt=provider)
        case "openvino":
            return OpenVinoEngine(
                artefact.folder / ENGINE_GRAPH,
                inputs=inputs,
                outputs=outputs,
                profiles=profiles_of(artefact),
                cache=target.cache("engines", artefact.key),
            )
        case name:
            # The model's own `forward` asks for what a supplied tap makes superfluous.
            inputs |= {spec.name: spec for spec in component.architecture.inputs}
            # A text encoder asks its masks for their values, which cannot be traced, and runs once.
            mode: Mode = "compile" if name == "torch-compile" and component.architecture.tokens is None else "eager"
            make = traceable if mode == "compile" else _eager
            function = make(component.module(), component.architecture, variant)
            return TorchEngine(function, inputs=inputs, outputs=outputs, device=target.device, mode=mode)


def _eager(model: torch.nn.Module, architecture: Architecture, variant: Variant) -> TensorFunction:
    return partial(parity.run_model, model, architecture, variant)


def profiles_of(artefact: Artefact) -> tuple[ShapeProfile, ...]:
    """The shapes that an artefact's engine takes; nothing but these where it was compiled."""
    return tuple(ShapeProfile.from_json(data) for data in artefact.about["profiles"])
