"""What one run of a graph costs at one shape: operations, parameters, and the bytes that it moves.

How many bytes those are depends on what a compiler keeps on the chip, which a graph does not say. So there are three
counts, of which the first is what no engine can go below, and the last what one without any fusion moves:

* `least`: everything is one kernel. The weights, the inputs and the outputs, taps among both, each once.
* `layers`: each convolution and each matrix product is a kernel that reads its inputs and its weights, those of 8 bits
  where it is quantized, and writes its output. Normalisations, element-wise operations and copies ride on those for
  free, and attention keeps its scores, queries × keys and their softmax, on the chip.
* `unfused`: each node of the graph is a kernel that reads all its inputs and writes all its outputs. Only what gives
  the same bytes another shape moves nothing, and what is computed from weights alone is computed before.

A weight counts once in each run, an activation once where it is written and once for each kernel that reads it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add

import onnx
import onnx_ir

from deepcache_trt.benchmarks.counting.macs import NO_MACS, Macs, node_macs
from deepcache_trt.benchmarks.counting.static_graph import elements, fixed_values, size_in_bytes, static_graph


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A convolution or a matrix product with all that rides on it.

    Attributes:
        macs: its operations.
        bytes: that it reads and writes.
        in_8_bits: whether it multiplies numbers of 8 bits.
    """

    macs: Macs
    bytes: int
    in_8_bits: bool = False


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One run of a variant at one shape.

    Attributes:
        parameters: numbers that the checkpoint gives it.
        weights: bytes of those.
        inputs: bytes of each input.
        least: bytes that it moves at least; this and the next two as the module says.
        unfused: bytes that it moves at most.
        kernels: in the order of the graph.
    """

    parameters: int
    weights: int
    inputs: Mapping[str, int]
    least: int
    unfused: int
    kernels: tuple[Kernel, ...]

    @property
    def macs(self) -> Macs:
        """All operations."""
        return reduce(add, (kernel.macs for kernel in self.kernels), NO_MACS)

    @property
    def layers(self) -> int:
        """Bytes that it moves as a kernel for each layer."""
        return sum(kernel.bytes for kernel in self.kernels)


def cost_of(graph: onnx.ModelProto, sizes: Mapping[str, int]) -> Cost:
    """What one run costs.

    Args:
        graph: of a variant; its weights are external data and are not read.
        sizes: of every axis, as for `count_macs`.
    """
    model = static_graph(graph, sizes)
    fixed = fixed_values(model)
    read = {value for node in model.graph for value in node.inputs}
    weights = [value for value in model.graph.initializers.values() if value.const_value is None and value in read]
    inputs = {str(value.name): size_in_bytes(value) for value in model.graph.inputs}
    outputs = sum(size_in_bytes(value) for value in model.graph.outputs)
    weight_bytes = sum(size_in_bytes(value) for value in weights)
    scales = {node.inputs[1] for node in model.graph if node.op_type == "DequantizeLinear"}
    return Cost(
        parameters=sum(elements(value) for value in weights if value not in scales),
        weights=weight_bytes,
        inputs=inputs,
        least=weight_bytes + sum(inputs.values()) + outputs,
        unfused=sum(_moved(node) for node in model.graph if node.op_type not in _VIEWS and not _is_fixed(node, fixed)),
        kernels=tuple(_kernels(model, fixed)),
    )


# They give the same bytes another shape.
_VIEWS = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"}

# What lies between an attention's scores, their softmax and the product with the values.
_BETWEEN = {"Add", "Mul", "Div", "Cast", "Reshape"}


def _kernels(model: onnx_ir.Model, fixed: set[onnx_ir.Value]) -> Iterator[Kernel]:
    kept = _kept_on_chip(model, fixed)
    for node in model.graph:
        macs = node_macs(node, fixed)
        if macs.total:
            in_8_bits = all(_dequantized(value) is not None for value in node.inputs[:2])
            given = node.outputs[0]
            if in_8_bits and len(given.uses()) == 1 and given.consumers()[0].op_type == "Cast":
                given = given.consumers()[0].outputs[0]
            read = {_dequantized(value) or value for value in node.inputs if value is not None}
            moved = sum(size_in_bytes(value) for value in {*read, given} - kept)
            yield Kernel(macs=macs, bytes=moved, in_8_bits=in_8_bits)


def _dequantized(value: onnx_ir.Value | None) -> onnx_ir.Value | None:
    """The numbers of 8 bits that a tensor is made of by the node that gives it; None where it is made of others."""
    node = value.producer() if value is not None else None
    return node.inputs[0] if node is not None and node.op_type == "DequantizeLinear" else None


def _kept_on_chip(model: onnx_ir.Model, fixed: set[onnx_ir.Value]) -> set[onnx_ir.Value]:
    """The scores of each attention and what is multiplied with its values."""
    kept: set[onnx_ir.Value] = set()
    for node in model.graph:
        if not node_macs(node, fixed).attention:
            continue
        probabilities = node.inputs[0]
        softmax = _made_by(probabilities, "Softmax")
        scores = softmax and _made_by(softmax.inputs[0], "MatMul")
        if scores and node_macs(scores, fixed).attention:
            assert probabilities is not None
            kept |= {probabilities, scores.outputs[0]}
    return kept


def _made_by(value: onnx_ir.Value | None, operator: str) -> onnx_ir.Node | None:
    """The node of that operator which a value comes from, with nothing but element-wise operations in between."""
    node = value.producer() if value is not None else None
    while node is not None and node.op_type in _BETWEEN:
        value = node.inputs[0]
        node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == operator else None


def _is_fixed(node: onnx_ir.Node, fixed: set[onnx_ir.Value]) -> bool:
    return set(node.outputs) <= fixed


def _moved(node: onnx_ir.Node) -> int:
    return sum(size_in_bytes(value) for value in {*node.inputs, *node.outputs} if value is not None)
