"""What a model's variants cost, and a generation with them: counted from its architecture, with nothing run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir

from deepcache_trt.benchmarks.counting.cost import Cost, cost_of
from deepcache_trt.benchmarks.counting.layers import Layer, layers_of
from deepcache_trt.builder.component import DENOISERS, Component, from_architecture
from deepcache_trt.builder.graphs import GRAPH, graph_key
from deepcache_trt.builder.model_source import ModelSource, pipeline_folder
from deepcache_trt.builder.pieces import variants_of
from deepcache_trt.builder.quantized.choice import chosen
from deepcache_trt.builder.quantized.quantizing import check_owners, patterns_of
from deepcache_trt.builder.shapes import Shapes, check_sizes, profiles_for, shapes_from_text
from deepcache_trt.engines.store import Store
from deepcache_trt.errors import CheckpointError, DeepCacheError, ShapeError, UnsupportedError
from deepcache_trt.export.cut import cut
from deepcache_trt.export.precision import Precision, precision_of
from deepcache_trt.export.quantize import quantize as quantize_graph
from deepcache_trt.export.trace import onnx_from_config
from deepcache_trt.models.architecture import Architecture
from deepcache_trt.models.catalogue import CATALOGUE
from deepcache_trt.models.checkpoint.model_class import class_and_config
from deepcache_trt.models.families.unet_2d_condition import UNET_2D_CONDITION, uncached
from deepcache_trt.models.fresh import fake_model
from deepcache_trt.models.registry import architecture_of, family_of
from deepcache_trt.models.taps import Variant
from deepcache_trt.progress import Progress
from deepcache_trt.runtime.plan import FULL, Plan
from deepcache_trt.runtime.policies.deepcache import SHALLOW, DeepCache, variants_at


@dataclass(frozen=True, kw_only=True)
class Shallow:
    """The shallow variant of a branch; a full step of a generation that is cached writes `tap` bytes on top of its own.

    Attributes:
        cost: of one run, reading the tap among it.
        tap: bytes of the tap.
    """

    cost: Cost
    tap: int


@dataclass(frozen=True, kw_only=True)
class ModelCounts:
    """The variants of a denoiser at one shape.

    Attributes:
        component: of which nothing but the architecture is read.
        sizes: of every axis.
        full: what plain diffusers runs at each step.
        shallow: what is run at a cached step, by DeepCache's k.
        refused: why the model cannot be cached; "" where it can.
        graph: all of it, with every tap.
    """

    component: Component
    sizes: Mapping[str, int]
    graph: onnx.ModelProto
    full: Cost
    shallow: Mapping[int, Shallow]
    refused: str = ""

    def layers(self, branch: int | None = None) -> list[Layer]:
        """Where the operations of a full step are spent, or those of a cached one at a branch."""
        variant = Variant(name=FULL) if branch is None else variants_at(branch)[1]
        return layers_of(cut(self.graph, variant), self.sizes)

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """The shape of each input."""
        return {spec.name: spec.resolve(self.sizes) for spec in self.component.architecture.inputs}


def count_model(
    model: str,
    *,
    config: str | None = None,
    dtype: str,
    size: str | None,
    batch: int,
    tokens: int | None,
    branches: Sequence[int],
    store: Store,
    progress: Progress,
    precision: str | None = None,
    quantize: Sequence[str] = (),
) -> ModelCounts:
    """Count the variants of a model's denoiser.

    Args:
        model: a name of the catalogue, or a folder, hub id or file that is on this machine; only configs are read.
        config: as in `ModelSource`.
        dtype: of weights and activations.
        size: pixels, as "512" or "768x1024" (height × width); None: the model's own.
        batch: of one call of the denoiser, in which guidance doubles the images.
        tokens: of the text; None: those of CLIP, 77.
        branches: DeepCache's k, several at once; none of them where a model cannot be cached.
        store: whose graph of this architecture is taken where it has one; else one is exported and thrown away.
        progress: told about each stage.
        precision: of quantized layers, see `export.precision`; None: there are none.
        quantize: which, see `EngineOptions`; the default depends on the branch.

    Raises:
        UnknownNameError: no such model, branch, precision or layer.
        CheckpointError: a folder without a denoiser, or no folder on this machine.
        ShapeError: a shape that the model cannot take.
        UnsupportedError: a denoiser that is not covered.
    """
    ModelSource(model=model, config=config)  # what is wrong with the words is said before a model is made
    stored = precision_of(precision)
    if stored is not None and len(branches) > 1 and not quantize:
        raise DeepCacheError(
            "which layers are quantized by default depends on the branch; give one --branch, or name them: --quantize"
        )
    shapes = shapes_from_text([size] if size else [], [])
    component, refused = _find(model, config, dtype)
    check_owners(quantize, [component.part])
    sizes = _sizes(component, shapes, batch, tokens)
    branches = () if refused else branches
    for branch in branches:
        variants_of(component.architecture, DeepCache(cache_branch_id=branch), model)
    graph = _graph(component, store, progress)
    if stored is not None:
        graph = _quantized(graph, component, branches, quantize, stored)
    with progress("counting"):
        return ModelCounts(
            component=component,
            sizes=sizes,
            graph=graph,
            full=cost_of(cut(graph, Variant(name=FULL)), sizes),
            shallow={branch: _shallow(graph, branch, sizes) for branch in branches},
            refused=refused,
        )


def per_step(plan: Plan, full: float, shallow: float) -> float:
    """The average over the calls of a plan of what a full and a cached one cost; a skipped one costs nothing.

    DeepCache's figures are this: (full · n + shallow · (T - n)) / T for n full calls of T.
    """
    kinds = plan.variants
    return (full * kinds.count(FULL) + shallow * kinds.count(SHALLOW)) / len(kinds)


def _find(model: str, config: str | None, dtype: str) -> tuple[Component, str]:
    """The denoiser, and why it cannot be cached, if so."""
    part, model_class, own = _denoiser(model, config)
    fake: Any = fake_model(model_class, own, dtype)
    architecture, refused = countable(fake, dtype)
    component = from_architecture(model_class, own, name=model, part=part, dtype=dtype, architecture=architecture)
    return component, refused


def _denoiser(model: str, config: str | None) -> tuple[str, Any, Mapping[str, Any]]:
    """Its name in the pipeline, its class and its config."""
    parts = CATALOGUE[model].parts if model in CATALOGUE else {}
    for name in DENOISERS:
        if name in parts:
            return name, parts[name].model_class(), parts[name].config
    folder = pipeline_folder(ModelSource(model=model, config=config, offline=True))
    for name in DENOISERS:
        if (folder / name).is_dir():
            return name, *class_and_config(folder / name)
    raise CheckpointError(f"{model} has neither a {' nor a '.join(DENOISERS)}, and nothing else is cached")


def countable(fake: Any, dtype: str) -> tuple[Architecture, str]:
    """A denoiser on fake tensors as a graph, and why it cannot be cached; "" where it can."""
    try:
        architecture = architecture_of(fake, dtype=dtype)
    except UnsupportedError as error:
        if family_of(type(fake).__name__) is not UNET_2D_CONDITION:
            raise
        return uncached(fake, dtype), str(error).partition(";")[0]
    numbered = any(tap.name == "tap_0" for tap in architecture.taps)
    return architecture, "" if numbered else f"a {type(fake).__name__} has no skip connections"


def _sizes(component: Component, shapes: Shapes, batch: int, tokens: int | None) -> dict[str, int]:
    architecture = component.architecture
    if any(side.min != side.max for sides in shapes.sizes for side in sides):
        low, high = shapes.sizes[0][0].min, shapes.sizes[0][0].max
        raise ShapeError(f"--size {low}-{high} is a range; operations are counted at one size, as --size {high}")
    sizes = {**profiles_for(component, shapes)[0].at("opt"), "batch": batch}
    if tokens is not None:
        sizes["sequence"] = tokens
    sizes = {axis: count for axis, count in sizes.items() if axis in architecture.axes}
    check_sizes(architecture, sizes)
    return sizes


def _graph(component: Component, store: Store, progress: Progress) -> onnx.ModelProto:
    kept = store.find("graphs", graph_key(component))
    if kept is not None:
        return onnx.load(kept.folder / GRAPH, load_external_data=False)
    return onnx_ir.to_proto(
        onnx_from_config(
            component.model_class,
            component.graph_config,
            dtype=component.dtype,
            architecture=component.architecture,
            progress=progress,
        )
    )


def _quantized(
    graph: onnx.ModelProto, component: Component, branches: Sequence[int], patterns: Sequence[str], stored: Precision
) -> onnx.ModelProto:
    """The graph with quantized layers; their scales, which nothing that is counted depends on, are 1."""
    cached = [variants_at(branch)[1] for branch in branches]
    own = patterns_of(component.part, patterns, is_denoiser=True) or ()
    layers = chosen(graph, own, cached, title=component.title)
    return quantize_graph(graph, layers, {layer.weight: 1.0 for layer in layers}, stored)


def _shallow(graph: onnx.ModelProto, branch: int, sizes: Mapping[str, int]) -> Shallow:
    _, variant = variants_at(branch)
    cost = cost_of(cut(graph, variant), sizes)
    return Shallow(cost=cost, tap=cost.inputs[variant.consumes[0]])
