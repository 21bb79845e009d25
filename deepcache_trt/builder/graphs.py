"""From a component to graphs: its weights, its architecture's graph, and its variants with both together."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import psutil
import torch

from deepcache_trt.builder.component import Component
from deepcache_trt.builder.quantized.choice import chosen
from deepcache_trt.engines.store import Artefact, Store, key_of
from deepcache_trt.export import parity, weights
from deepcache_trt.export.layers import Layer
from deepcache_trt.export.quantize import quantize, quantized_weights
from deepcache_trt.export.segments import Piece, cut_piece
from deepcache_trt.export.tap_specs import tap_specs
from deepcache_trt.export.trace import onnx_from_config, onnx_from_live
from deepcache_trt.models.copies import fake_copy
from deepcache_trt.models.fresh import fake_model
from deepcache_trt.models.taps import Variant
from deepcache_trt.progress import Progress
from deepcache_trt.tensors import TensorSpec

_log = logging.getLogger(__name__)

# Change it when the same config gives another graph.
_GRAPH_FORMAT = 3

# Change it when the same graph or the same weights are quantized to others.
_QUANTIZED_FORMAT = 1

GRAPH = "graph.onnx"


def graph_key(component: Component) -> str:
    """The key of the graph of a component's architecture."""
    return key_of(_graph_ingredients(component))


def weights_key(component: Component) -> str:
    """The key of a component's weights."""
    return key_of(_weights_ingredients(component))


def weights_artefact(component: Component, store: Store, progress: Progress) -> Artefact:
    """The component's weights as safetensors files in the store: links where a checkpoint has them, else written."""

    def build(folder: Path) -> dict[str, Any]:
        about = {
            "model": component.name,
            "component": component.part,
            "dtype": component.dtype,
            "parameters": component.parameters,
        }
        if component.quantizing is not None:
            _, layers = _chosen(component, store, progress)
            with progress(f"quantizing the weights of {component.title}"):
                weights.write(quantized_weights(component.tensors(), layers, component.quantizing.precision), folder)
            return about | {"precision": component.quantizing.precision.name}
        with progress(f"{'linking' if component.files else 'writing'} the weights of {component.title}"):
            if component.files is not None:
                weights.link(component.files, folder)
            else:
                weights.write(component.tensors(), folder)
        return about

    return store.get("weights", _weights_ingredients(component), build, passing=component.adapters)


def graph_artefact(component: Component, store: Store, progress: Progress) -> Artefact:
    """The architecture's graph with every tap as an output, exported and checked against the model once.

    Where layers are quantized it is made of the one in which none are, and has the scales of this model's activations.
    """
    if component.quantizing is not None:
        return _quantized_graph(component, store, progress)

    def build(folder: Path) -> dict[str, Any]:
        form = component.form
        if component.live is not None:
            model = onnx_from_live(component.live, form=form, progress=progress)
        else:
            model_class, config = component.model_class, component.graph_config
            model = onnx_from_config(model_class, config, dtype=component.dtype, form=form, progress=progress)
        onnx_ir.save(model, folder / GRAPH)
        return {
            "class": component.model_class.__name__,
            "dtype": component.dtype,
            "first_model": component.title,
            "opset": model.opset_imports[""],
            "nodes": len(model.graph),
            "taps": [tap.name for tap in component.architecture.taps],
            "parity": _check_parity(component, folder / GRAPH, store, progress),
        }

    return store.get("graphs", _graph_ingredients(component), build)


def _quantized_graph(component: Component, store: Store, progress: Progress) -> Artefact:
    def build(folder: Path) -> dict[str, Any]:
        whole, layers = _chosen(component, store, progress)
        scales = activation_scales(component, store, progress)
        assert component.quantizing is not None
        precision = component.quantizing.precision
        with progress(f"quantizing {len(layers)} layers of {component.title}"):
            onnx.save(quantize(whole, layers, scales, precision), folder / GRAPH)
        return {
            "class": component.model_class.__name__,
            "dtype": component.dtype,
            "first_model": component.title,
            "precision": precision.name,
            "quantized": [layer.name for layer in layers],
            **({"weights": weights_key(component)} if component.adapters else {}),
        }

    return store.get("graphs", _graph_ingredients(component), build, passing=component.adapters)


def _chosen(component: Component, store: Store, progress: Progress) -> tuple[onnx.ModelProto, tuple[Layer, ...]]:
    """The component's graph without quantized layers, and those that are to be quantized."""
    quantizing = component.quantizing
    assert quantizing is not None
    path = graph_artefact(component.unquantized, store, progress).folder / GRAPH
    graph = onnx.load(path, load_external_data=False)
    return graph, chosen(graph, quantizing.patterns, quantizing.cached, title=component.title)


def activation_scales(component: Component, store: Store, progress: Progress) -> dict[str, float]:
    """The scale of each layer's activation, by the name of its weight, as calibration found them once.

    Args:
        component: quantized.
        store: where they are kept.
        progress: told of what calibration does.
    """
    quantizing = component.quantizing
    assert quantizing is not None

    def build(folder: Path) -> dict[str, Any]:
        return {
            "model": component.name,
            "component": component.part,
            "dtype": component.dtype,
            "calibration": dict(quantizing.calibration.about),
            "scales": dict(quantizing.calibration.observe(progress, quantizing.precision)),
            **({"weights": weights_key(component)} if component.adapters else {}),
        }

    ingredients = quantizing.scales_of(component.fingerprint)
    found = store.get("calibrations", ingredients, build, passing=component.adapters)
    scales: dict[str, float] = found.about["scales"]
    return scales


@contextmanager
def bound_graph(component: Component, piece: Piece, store: Store, progress: Progress) -> Iterator[Path]:
    """The graph of a variant or a segment with its weights beside it, in a temporary folder."""
    kept = weights_artefact(component, store, progress)
    path = graph_artefact(component, store, progress).folder / GRAPH
    with store.scratch() as folder:
        with progress(f"cutting the {piece.name} graph of {component.title}"):
            model = cut_piece(onnx.load(path, load_external_data=False), piece)
            linked = weights.link(sorted(kept.folder.glob("*.safetensors")), folder)
            weights.save_bound(model, weights.locate(linked), folder / GRAPH)
        yield folder / GRAPH


def specs_of(component: Component, variant: Variant, progress: Progress) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """The inputs and outputs of a variant, for which no graph is made."""
    architecture = component.architecture
    taps = _taps(component, progress) if variant.consumes or variant.emits else {}
    given = [spec for spec in architecture.outputs if variant.outputs is None or spec.name in variant.outputs]
    return (
        [*architecture.inputs, *(taps[name] for name in variant.consumes)],
        [*given, *(taps[name] for name in variant.emits)],
    )


# By the key of the graph that they would be in: every variant has some of them.
_measured: dict[str, dict[str, TensorSpec]] = {}


def _taps(component: Component, progress: Progress) -> dict[str, TensorSpec]:
    key = graph_key(component)
    if key not in _measured:
        with progress(f"measuring the taps of {component.title}"):
            if component.live is not None:
                fake: torch.nn.Module = fake_copy(component.live)
            else:
                fake = fake_model(component.model_class, component.graph_config, component.dtype)
            _measured[key] = tap_specs(fake, component.architecture)
    return _measured[key]


def _graph_ingredients(component: Component) -> dict[str, Any]:
    ingredients = {
        "class": component.model_class.__name__,
        "config": component.graph_config,
        "dtype": component.dtype,
        "format": _GRAPH_FORMAT,
        "torch": torch.__version__.split("+")[0],
    }
    extras = {
        "controlled": component.form.controlled,
        "structure": component.structure,
        "images": component.form.images,
        "pooled": component.form.pooled,
    }
    ingredients |= {name: extra for name, extra in extras.items() if extra}
    if component.quantizing is None:
        return ingredients
    scales = key_of(component.quantizing.scales_of(component.fingerprint))
    return {
        "of": key_of(ingredients),
        "quantized": component.quantizing.layers,
        "scales": scales,
        "quantized_format": _QUANTIZED_FORMAT,
    }


def _weights_ingredients(component: Component) -> dict[str, Any]:
    ingredients: dict[str, Any] = {"fingerprint": component.fingerprint}
    if component.quantizing is None:
        return ingredients
    # Which layers a pattern means is told by the graph.
    graph = graph_key(component.unquantized)
    return {**ingredients, "quantized": component.quantizing.layers, "format": _QUANTIZED_FORMAT, "graph": graph}


def _check_parity(component: Component, path: Path, store: Store, progress: Progress) -> dict[str, Any] | str:
    """The record of the parity check, or why there is none: it runs the whole model twice, in fp32 inside."""
    if component.dtype == "bfloat16":
        return "skipped: ONNX Runtime has no bfloat16 on the CPU"
    needed, available = 12 * component.parameters, psutil.virtual_memory().available
    if needed > available:
        skipped = f"skipped: needs about {needed / 1e9:.0f} GB of memory, {available / 1e9:.0f} GB are free"
        _log.warning("parity check of %s %s", component.title, skipped)
        return skipped
    files = sorted(weights_artefact(component, store, progress).folder.glob("*.safetensors"))
    graph = onnx.load(path, load_external_data=False)
    with progress(f"checking the graph against {component.title}"), tempfile.TemporaryDirectory(dir=path.parent) as tmp:
        found = parity.check_graph(
            graph, files, component.module(), component.architecture, dtype=component.dtype, folder=Path(tmp)
        )
    return asdict(found)
