"""Multiply-accumulate operations of a graph, counted from its nodes.

Convolutions and matrix products with a weight count as in the published figures; products of two activations, which
are attention's, are counted apart because those figures leave them out. The published counters add normalisations,
activations and pooling, which are not counted here: that makes their figures up to 0.4 % larger.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add

import onnx
import onnx_ir

from deepcache_trt.benchmarks.counting.static_graph import dims, elements, fixed_values, static_graph
from deepcache_trt.export.cut import cut
from deepcache_trt.models.taps import Variant
from deepcache_trt.runtime.plan import FULL


@dataclass(frozen=True, kw_only=True)
class Macs:
    """Operations of one run of a graph."""

    weights: int  # convolutions and linear layers
    attention: int  # products of two activations

    def __add__(self, other: "Macs") -> "Macs":
        return Macs(weights=self.weights + other.weights, attention=self.attention + other.attention)

    @property
    def total(self) -> int:
        """Both together: what a machine has to do."""
        return self.weights + self.attention


NO_MACS = Macs(weights=0, attention=0)


def variant_macs(graph: onnx.ModelProto, variants: Iterable[Variant], sizes: Mapping[str, int]) -> dict[str, int]:
    """All operations of one run of each variant of a full graph, by the variant's name."""
    return {variant.name: count_macs(cut(graph, variant), sizes).total for variant in variants}


def count_macs(graph: onnx.ModelProto, sizes: Mapping[str, int]) -> Macs:
    """Count one run at the given axis sizes, e.g. `{"batch": 1, "height": 64, "width": 64, "sequence": 77}`."""
    model = static_graph(graph, sizes)
    fixed = fixed_values(model)
    return reduce(add, (node_macs(node, fixed) for node in model.graph), NO_MACS)


def ideal_speedup(costs: Mapping[str, float], calls: Mapping[str, int]) -> float:
    """How much less the calls of each variant cost than as many full ones, by what one of each costs; skipped: nothing.

    The mapping of `calls` may have variants that cost nothing and are not in `costs`.
    """
    return costs[FULL] * sum(calls.values()) / sum(costs[name] * calls.get(name, 0) for name in costs)


def node_macs(node: onnx_ir.Node, fixed: set[onnx_ir.Value]) -> Macs:
    """Operations of one node of a static graph; `fixed` are its weights and constants."""
    if node.op_type not in ("Conv", "MatMul", "Gemm"):
        return NO_MACS
    left, right = node.inputs[:2]
    assert left is not None
    assert right is not None
    # A kernel is [out, in / groups, …], a matrix product [B, M, K] × [B, K, N].
    terms = elements(right) // dims(right)[0] if node.op_type == "Conv" else dims(left)[-1]
    count = elements(node.outputs[0]) * terms
    return Macs(weights=count, attention=0) if {left, right} & fixed else Macs(weights=0, attention=count)
