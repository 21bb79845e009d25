"""Multiply-accumulate operations of a graph, counted from its nodes.

Convolutions and matrix products with a weight count as in the published figures; products of two activations, which
are attention's, are counted apart because those figures leave them out.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from deepcache_trt.tensors import Dim, resolve_dim


@dataclass(frozen=True, kw_only=True)
class Macs:
    """Operations of one run of a graph."""

    weights: int  # convolutions and linear layers
    attention: int  # products of two activations

    def __add__(self, other: "Macs") -> "Macs":
        return Macs(weights=self.weights + other.weights, attention=self.attention + other.attention)


def count_macs(graph: onnx.ModelProto, sizes: Mapping[str, int]) -> Macs:
    """Count one run at the given axis sizes, e.g. `{"batch": 1, "height": 64, "width": 64, "sequence": 77}`."""
    shapes = _shapes(graph)
    constants = {initializer.name for initializer in graph.graph.initializer}
    total = Macs(weights=0, attention=0)
    for node in graph.graph.node:
        total += _node_macs(node, shapes, constants, sizes)
        # A transposed weight is still a weight.
        if node.op_type == "Transpose" and node.input[0] in constants:
            constants.add(node.output[0])
    return total


def _node_macs(
    node: onnx.NodeProto, shapes: Mapping[str, tuple[Dim, ...]], constants: set[str], sizes: Mapping[str, int]
) -> Macs:
    if node.op_type not in ("Conv", "MatMul", "Gemm"):
        return Macs(weights=0, attention=0)
    output = math.prod(resolve_dim(dim, sizes) for dim in shapes[node.output[0]])
    if node.op_type == "Conv":
        kernel = shapes[node.input[1]]  # [out, in / groups, …]
        return Macs(weights=output * math.prod(int(dim) for dim in kernel[1:]), attention=0)
    inner = resolve_dim(shapes[node.input[0]][-1], sizes)
    is_weight = any(name in constants for name in node.input[:2])
    return Macs(weights=output * inner * is_weight, attention=output * inner * (not is_weight))


def _shapes(graph: onnx.ModelProto) -> dict[str, tuple[Dim, ...]]:
    values = [*graph.graph.input, *graph.graph.output, *graph.graph.value_info]
    shapes: dict[str, tuple[Dim, ...]] = {
        value.name: tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in values
    }
    shapes.update({initializer.name: tuple(initializer.dims) for initializer in graph.graph.initializer})
    return shapes
