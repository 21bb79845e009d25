"""What calls of a cached pipeline cost."""

from pathlib import Path
from typing import Any

import onnx

from deepcache_trt.benchmarks.counting.macs import variant_macs
from deepcache_trt.builder.component import from_model
from deepcache_trt.builder.graphs import GRAPH, graph_artefact
from deepcache_trt.builder.pieces import variants_of
from deepcache_trt.engines.store import Store, default_root
from deepcache_trt.pipelines.cached_denoiser import part_of_denoiser
from deepcache_trt.progress import logged
from deepcache_trt.runtime.plan import SKIP


def macs_of(pipe: Any) -> dict[str, int]:
    """Multiply-accumulate operations of one call of each variant of a cached pipeline, as it drew last.

    A skipped call has none. Guidance doubles the batch, and so the count.
    """
    part = part_of_denoiser(pipe)
    component = from_model(getattr(pipe, part), name=type(pipe).__name__, part=part)
    store = Store(Path(pipe.engine_options.store or default_root()))
    graph = onnx.load(graph_artefact(component, store, logged).folder / GRAPH, load_external_data=False)
    variants = variants_of(component.architecture, pipe.policy, component.name)
    return {**variant_macs(graph, variants, pipe.last_run.sizes), SKIP: 0}
