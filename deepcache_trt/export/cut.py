"""Cut variants out of the full graph: a cached step is the full graph with some tensors supplied, not computed."""

import onnx
from onnx.utils import Extractor

from deepcache_trt.errors import UnknownNameError
from deepcache_trt.models.architecture import TAP_PREFIX
from deepcache_trt.models.taps import Variant


def cut(graph: onnx.ModelProto, variant: Variant) -> onnx.ModelProto:
    """Turn the consumed taps into inputs and drop everything that only fed them.

    Args:
        graph: the full graph, every tap among its outputs; weights as external data, left untouched.
        variant: which taps to consume and to emit, any sets of taps, and which outputs to keep.

    Returns:
        A new model with the inputs that it reads, and no others.

    Raises:
        UnknownNameError: a tap that the graph does not have.
    """
    names = [output.name for output in graph.graph.output]
    taps = [name for name in names if name.startswith(TAP_PREFIX)]
    outputs = [name for name in names if name not in taps] if variant.outputs is None else list(variant.outputs)
    for name in (*variant.consumes, *variant.emits):
        if name not in taps:
            raise UnknownNameError(f"no tap {name!r} in this graph; it has {', '.join(taps) or 'none'}")
    inputs = [*(value.name for value in graph.graph.input), *variant.consumes]
    model = Extractor(graph).extract_model(inputs, [*outputs, *variant.emits])
    read = {name for node in model.graph.node for name in node.input}
    read |= {value.name for value in model.graph.output}  # a consumed tap can be handed straight on
    live = [value for value in model.graph.input if value.name in read]
    del model.graph.input[:]
    model.graph.input.extend(live)
    return model
