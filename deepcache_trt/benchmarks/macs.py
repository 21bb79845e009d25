"""Multiply-accumulate operations of a graph, counted from its nodes.

Convolutions and matrix products with a weight count as in the published figures; products of two activations, which
are attention's, are counted apart because those figures leave them out.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx

from deepcache_trt.export.cut import cut
from deepcache_trt.models.taps import Variant
from deepcache_trt.tensors import Dim, resolve_dim


@dataclass(frozen=True, kw_only=True)
class Macs:
    """Operations of one run of a graph."""

    weights: int  # convolutions and linear layers
    attention: int  # products of two activations

    def __add__(self, other: "Macs") -> "Macs":
        return Macs(weights=self.weights + other.weights, attention=self.attention + other.attention)


def variant_macs(graph: onnx.ModelProto, variants: Iterable[Variant], sizes: Mapping[str, int]) -> dict[str, int]:
    """All operations of one run of each variant of a full graph, by the variant's name."""
    counted = {variant.name: count_macs(cut(graph, variant), sizes) for variant in variants}
    return {name: macs.weights + macs.attention for name, macs in counted.items()}


def count_macs(graph: onnx.ModelProto, sizes: Mapping[str, int]) -> Macs:
    """Count one run at the given axis sizes, e.g. `{"batch": 1, "height": 64, "width": 64, "sequence": 77}`."""
    shapes = _shapes(graph)
    weights = {initializer.name for initializer in graph.graph.initializer}
    sources: dict[str, str] = {}  # of tensors that hold the elements of another one
    total = Macs(weights=0, attention=0)
    for node in graph.graph.node:
        if node.op_type in _KEEPS_ELEMENTS:
            sources[node.output[0]] = node.input[0]
        if node.op_type == "Transpose" and node.input[0] in weights:
            weights.add(node.output[0])
        elif node.op_type == "Conv":
            kernel = shapes[node.input[1]]  # [out, in / groups, …]
            output = _elements(node.output[0], shapes, sources, sizes)
            total += Macs(weights=output * math.prod(int(dim) for dim in kernel[1:]), attention=0)
        elif node.op_type in ("MatMul", "Gemm") and weights & set(node.input[:2]):
            inner = resolve_dim(shapes[node.input[0]][-1], sizes)
            total += Macs(weights=inner * _elements(node.output[0], shapes, sources, sizes), attention=0)
        elif node.op_type == "MatMul":  # [B, M, K] × [B, K, N]: every row of the left one meets all of the right one
            rows = resolve_dim(shapes[node.input[0]][-2], sizes)
            total += Macs(weights=0, attention=rows * _elements(node.input[1], shapes, sources, sizes))
    return total


# Operators whose first input has as many elements as their output, as far as a denoiser's graph uses them: the
# factors of Mul are scales.
_KEEPS_ELEMENTS = {"Transpose", "Reshape", "Mul", "Cast", "Softmax"}
_UNKNOWN = 0  # what protobuf says for a dimension without a value


def _elements(
    name: str, shapes: Mapping[str, tuple[Dim, ...]], sources: Mapping[str, str], sizes: Mapping[str, int]
) -> int:
    while name not in shapes or _UNKNOWN in shapes[name]:
        name = sources[name]
    return math.prod(resolve_dim(dim, sizes) for dim in shapes[name])


def _shapes(graph: onnx.ModelProto) -> dict[str, tuple[Dim, ...]]:
    values = [*graph.graph.input, *graph.graph.output, *graph.graph.value_info]
    shapes: dict[str, tuple[Dim, ...]] = {
        value.name: tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in values
    }
    shapes.update({initializer.name: tuple(initializer.dims) for initializer in graph.graph.initializer})
    return shapes
