"""From a denoiser to a session: weights → graph → cut → engines, each step only if the store lacks its result."""

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import psutil
import torch

from deepcache_trt import __version__
from deepcache_trt.engines import backends
from deepcache_trt.engines.engine import Engine
from deepcache_trt.engines.onnxruntime import OnnxRuntimeEngine
from deepcache_trt.engines.profile import Range, ShapeProfile
from deepcache_trt.engines.store import Artefact, Store, key_of
from deepcache_trt.engines.torch import TorchEngine
from deepcache_trt.errors import NotBuiltError, UnknownNameError
from deepcache_trt.export import parity, weights
from deepcache_trt.export.cut import cut
from deepcache_trt.export.trace import onnx_from_config
from deepcache_trt.models.architectures import OUTPUT, Architecture
from deepcache_trt.models.taps import Variant, deepcache_variants
from deepcache_trt.pipelines.denoiser import Denoiser
from deepcache_trt.progress import Progress, logged
from deepcache_trt.runtime.session import Session
from deepcache_trt.tensors import TensorSpec

_log = logging.getLogger(__name__)

# Change it when the same config gives another graph.
_GRAPH_FORMAT = 1

GRAPH, ENGINE_GRAPH = "graph.onnx", "engine.onnx"


@dataclass(frozen=True, kw_only=True)
class Target:
    """What to build for: a backend on a device, and a store to keep it in."""

    backend: str  # a real one, never "auto": see `backends.resolve`
    device: str  # "cpu" or "cuda"
    store: Store
    build: str = "auto"  # "never" refuses instead of building


def check_branch(architecture: Architecture, branch: int, name: str) -> None:
    """Raise UnknownNameError unless the model called `name` has a tap of that number."""
    count = len(architecture.taps)
    if not 0 <= branch < count:
        raise UnknownNameError(
            f"cache_branch_id={branch} is outside 0…{count - 1}: {name} has {count} skip connections"
        )


def widest_profile(architecture: Architecture) -> ShapeProfile:
    """Every shape that the graph can take; the engines that there are need no narrower one."""
    most = architecture.max_batch
    return ShapeProfile(batch=Range(min=1, opt=min(2, most), max=most))


def build_variants(
    denoiser: Denoiser, branch: int, target: Target, *, progress: Progress = logged
) -> dict[str, Artefact]:
    """The engines of DeepCache's two variants at `branch`, by variant name; what is in the store is not built again.

    Raises:
        UnknownNameError: no such branch.
        NotBuiltError: an engine is missing and `target.build` is "never".
        ParityError: the exported graph does not compute what the model computes.
    """
    check_branch(denoiser.architecture, branch, denoiser.name)
    backends.check_dtype(target.backend, target.device, denoiser.dtype)
    return {
        variant.name: _engine(denoiser, branch, variant, target, progress) for variant in deepcache_variants(branch)
    }


def open_session(denoiser: Denoiser, branch: int, target: Target, *, progress: Progress = logged) -> Session:
    """Build what is missing and load it."""
    artefacts = build_variants(denoiser, branch, target, progress=progress)
    with progress(f"loading the engines of {denoiser.name}"):
        engines = {
            variant.name: _open_engine(denoiser, variant, artefacts[variant.name], target)
            for variant in deepcache_variants(branch)
        }
    return Session(engines, output=OUTPUT)


def _open_engine(denoiser: Denoiser, variant: Variant, artefact: Artefact, target: Target) -> Engine:
    if target.backend == "onnxruntime":
        return OnnxRuntimeEngine(artefact.folder / ENGINE_GRAPH)
    model = denoiser.module()

    def function(tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        return parity.run_model(model, denoiser.architecture, variant, tensors)

    inputs = {data["name"]: _spec(data) for data in artefact.about["inputs"]}
    outputs = {data["name"]: _spec(data) for data in artefact.about["outputs"]}
    return TorchEngine(function, inputs=inputs, outputs=outputs, device=target.device)


def _graph_ingredients(denoiser: Denoiser) -> dict[str, Any]:
    return {
        "class": denoiser.model_class.__name__,
        "config": denoiser.graph_config,
        "dtype": denoiser.dtype,
        "format": _GRAPH_FORMAT,
        "torch": torch.__version__.split("+")[0],
    }


def _engine(denoiser: Denoiser, branch: int, variant: Variant, target: Target, progress: Progress) -> Artefact:
    ingredients = {
        "graph": key_of(_graph_ingredients(denoiser)),
        "weights": key_of({"fingerprint": denoiser.fingerprint}),
        "variant": asdict(variant),
        "backend": target.backend,
        "backend_version": backends.version_of(target.backend),
        "device": backends.device_tag(target.device),
        "profile": asdict(widest_profile(denoiser.architecture)),
    }
    if target.build == "never" and target.store.find("engines", key_of(ingredients)) is None:
        command = (
            f"deepcache-trt build --model {denoiser.name} --backend {target.backend} --dtype {denoiser.dtype} "
            f"--branch {branch} --store {target.store.root}"
        )
        raise NotBuiltError(
            f"the store {target.store.root} has no {target.backend} engine {variant.name!r} of {denoiser.name} "
            f"({denoiser.dtype}, branch {branch}); allow build='auto' once, or run: {command}"
        )

    def build(folder: Path) -> dict[str, Any]:
        kept = weights_artefact(denoiser, target.store, progress)
        path = graph_artefact(denoiser, target.store, progress).folder / GRAPH
        with progress(f"cutting the {variant.name} graph of {denoiser.name}"):
            model = cut(onnx.load(path, load_external_data=False), variant)
            if target.backend == "onnxruntime":
                linked = weights.link(sorted(kept.folder.glob("*.safetensors")), folder)
                weights.save_bound(model, weights.locate(linked), folder / ENGINE_GRAPH)
        return {
            "model": denoiser.name,
            "dtype": denoiser.dtype,
            "branch": branch,
            "inputs": [_spec_json(value) for value in model.graph.input],
            "outputs": [_spec_json(value) for value in model.graph.output],
            "version": __version__,
            **ingredients,
        }

    return target.store.get("engines", ingredients, build)


def weights_artefact(denoiser: Denoiser, store: Store, progress: Progress) -> Artefact:
    """The denoiser's weights as safetensors files in the store: links where a checkpoint has them, else written."""

    def build(folder: Path) -> dict[str, Any]:
        with progress(f"{'linking' if denoiser.files else 'writing'} the weights of {denoiser.name}"):
            if denoiser.files is not None:
                weights.link(denoiser.files, folder)
            else:
                weights.write(denoiser.tensors(), folder)
        return {"model": denoiser.name, "dtype": denoiser.dtype, "parameters": denoiser.parameters}

    return store.get("weights", {"fingerprint": denoiser.fingerprint}, build)


def graph_artefact(denoiser: Denoiser, store: Store, progress: Progress) -> Artefact:
    """The architecture's graph with every tap as an output, exported and checked against the model once."""

    def build(folder: Path) -> dict[str, Any]:
        model = onnx_from_config(denoiser.model_class, denoiser.graph_config, dtype=denoiser.dtype, progress=progress)
        onnx_ir.save(model, folder / GRAPH)
        return {
            "class": denoiser.model_class.__name__,
            "dtype": denoiser.dtype,
            "first_model": denoiser.name,
            "opset": model.opset_imports[""],
            "nodes": len(model.graph),
            "taps": [tap.name for tap in denoiser.architecture.taps],
            "parity": _check_parity(denoiser, folder / GRAPH, store, progress),
        }

    return store.get("graphs", _graph_ingredients(denoiser), build)


def _check_parity(denoiser: Denoiser, path: Path, store: Store, progress: Progress) -> dict[str, Any] | str:
    """The record of the parity check, or why there is none: it runs the whole model twice, in fp32 inside."""
    if denoiser.dtype == "bfloat16":
        return "skipped: ONNX Runtime has no bfloat16 on the CPU"
    needed, available = 12 * denoiser.parameters, psutil.virtual_memory().available
    if needed > available:
        skipped = f"skipped: needs about {needed / 1e9:.0f} GB of memory, {available / 1e9:.0f} GB are free"
        _log.warning("parity check of %s %s", denoiser.name, skipped)
        return skipped
    files = sorted(weights_artefact(denoiser, store, progress).folder.glob("*.safetensors"))
    graph = onnx.load(path, load_external_data=False)
    with progress(f"checking the graph against {denoiser.name}"), tempfile.TemporaryDirectory(dir=path.parent) as tmp:
        found = parity.check_graph(
            graph, files, denoiser.module(), denoiser.architecture, dtype=denoiser.dtype, folder=Path(tmp)
        )
    return asdict(found)


def _spec_json(value: onnx.ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    shape = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
    return {"name": value.name, "dtype": weights.ONNX_DTYPES[tensor.elem_type], "shape": shape}


def _spec(data: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(name=data["name"], dtype=data["dtype"], shape=tuple(data["shape"]))
