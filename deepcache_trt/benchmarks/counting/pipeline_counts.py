"""What calls of a cached pipeline cost."""

from typing import Any

import onnx

from deepcache_trt.benchmarks.counting.macs import variant_macs
from deepcache_trt.builder.component import from_model
from deepcache_trt.builder.engines import variants_of
from deepcache_trt.builder.graphs import GRAPH, graph_artefact
from deepcache_trt.engines.store import Store, default_root
from deepcache_trt.progress import logged
from deepcache_trt.runtime.plan import SKIP
from deepcache_trt.tensors import axis_sizes


def macs_of(pipe: Any) -> dict[str, int]:
    """Multiply-accumulate operations of one call of each variant of a cached pipeline, as it drew last.

    A skipped call has none. Guidance doubles the batch, and so the count.
    """
    # What a pipeline says about its last run has no shapes.
    denoiser = pipe._cached_denoiser
    session = denoiser.first_call.session
    specs = {name: spec for engine in session.engines.values() for name, spec in engine.inputs.items()}
    sizes = axis_sizes(specs, {name: tuple(session.buffers[name].shape) for name in specs})
    component = from_model(denoiser.model, name=denoiser.name, part=denoiser.part)
    store = Store(denoiser.options.store or default_root())
    graph = onnx.load(graph_artefact(component, store, logged).folder / GRAPH, load_external_data=False)
    return {**variant_macs(graph, variants_of(component, denoiser.branch), sizes), SKIP: 0}
