"""Where a graph's operations are spent, by the layer of the model that each belongs to."""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx
import onnx_ir

from deepcache_trt.benchmarks.counting.macs import NO_MACS, Macs, node_macs
from deepcache_trt.benchmarks.counting.static_graph import fixed_values, static_graph

# The sub-module that an attention's products are counted for, which have no weights and so no name.
PRODUCTS = "products"

_WEIGHT = ".weight"


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution, a linear layer, or the products of an attention.

    Attributes:
        path: of the sub-module.
        macs: of one run.
    """

    path: str
    macs: Macs


def layers_of(graph: onnx.ModelProto, sizes: Mapping[str, int]) -> list[Layer]:
    """The layers with operations, in the order in which they first run.

    Args:
        graph: of a variant; its weights are named as in the checkpoint.
        sizes: of every axis, as for `count_macs`.
    """
    model = static_graph(graph, sizes)
    fixed = fixed_values(model)
    found: dict[str, Macs] = {}
    path = ""
    for node in model.graph:
        macs = node_macs(node, fixed)
        if not macs.total:
            continue
        if macs.attention:  # of the attention whose last projection ran before
            path = f"{path.rpartition('.')[0] or path}.{PRODUCTS}" if not path.endswith(PRODUCTS) else path
        else:
            path = _path(node, fixed) or path
        found[path] = found.get(path, NO_MACS) + macs
    return [Layer(path=path, macs=macs) for path, macs in found.items()]


def _path(node: onnx_ir.Node, fixed: set[onnx_ir.Value]) -> str:
    """That of the weight which a node multiplies with."""
    for value in node.inputs[:2]:
        while value is not None and value in fixed:
            if value.is_initializer() and str(value.name).endswith(_WEIGHT):
                return str(value.name).removesuffix(_WEIGHT)
            producer = value.producer()
            value = producer.inputs[0] if producer is not None else None
    return ""
