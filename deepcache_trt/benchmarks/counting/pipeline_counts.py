"""What calls of a cached pipeline cost."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from deepcache_trt.benchmarks.counting.cost import cost_of
from deepcache_trt.builder.component import Component, from_model
from deepcache_trt.builder.graphs import GRAPH, graph_artefact
from deepcache_trt.builder.pieces import variants_of
from deepcache_trt.builder.shapes import Shapes, profiles_for
from deepcache_trt.engines.store import Store, default_root
from deepcache_trt.export.cut import cut
from deepcache_trt.pipelines.cached_denoiser import part_of_denoiser
from deepcache_trt.progress import logged
from deepcache_trt.runtime.plan import SKIP


@dataclass(frozen=True, kw_only=True)
class Calls:
    """What calls of the denoiser cost.

    Attributes:
        macs: multiply-accumulate operations of one call of each variant, by its name; a skipped one has none.
        kept: bytes of the taps that are kept from one call to the next.
    """

    macs: Mapping[str, int]
    kept: int


def macs_of(pipe: Any) -> Mapping[str, int]:
    """Multiply-accumulate operations of one call of each variant of a cached pipeline, as it drew last.

    A skipped call has none. Guidance doubles the batch, and so the count.
    """
    return calls_of(pipe).macs


def calls_of(pipe: Any) -> Calls:
    """What calls of a cached pipeline cost, as it drew last; guidance doubles the batch, and so the counts."""
    return _counted(pipe, lambda component: pipe.last_run.sizes)


def calls_at_its_size(pipe: Any) -> Calls:
    """The same of a batch of one at the model's own size, whatever was drawn."""
    return _counted(pipe, lambda component: {**profiles_for(component, Shapes())[0].at("opt"), "batch": 1})


def _counted(pipe: Any, sizes_of: Callable[[Component], Mapping[str, int]]) -> Calls:
    part = part_of_denoiser(pipe)
    component = from_model(getattr(pipe, part), name=type(pipe).__name__, part=part)
    store = Store(Path(pipe.engine_options.store or default_root()))
    graph = onnx.load(graph_artefact(component, store, logged).folder / GRAPH, load_external_data=False)
    variants, sizes = variants_of(component.architecture, pipe.policy, component.name), sizes_of(component)
    costs = {variant.name: cost_of(cut(graph, variant), sizes) for variant in variants}
    kept = {name: costs[variant.name].inputs[name] for variant in variants for name in variant.consumes}
    return Calls(macs={**{name: cost.macs.total for name, cost in costs.items()}, SKIP: 0}, kept=sum(kept.values()))
