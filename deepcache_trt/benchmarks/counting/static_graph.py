"""A graph at one shape: every size is a number, and what only computed sizes is gone."""

import math
from collections.abc import Mapping

import onnx
import onnx_ir
import onnxscript.optimizer
from onnx_ir.passes import common as passes

from deepcache_trt.tensors import resolve_dim

# Enough for a shape or a table of frequencies; weights are never looked at.
_FOLD_LIMIT = 1024


def static_graph(graph: onnx.ModelProto, sizes: Mapping[str, int]) -> onnx_ir.Model:
    """The graph at the given axis sizes, e.g. `{"batch": 1, "height": 64, "width": 64, "sequence": 77}`.

    Args:
        graph: weights are external data and are not read.
        sizes: of every axis that its inputs have.

    Returns:
        A model in which every value has a shape of numbers, and weights are initializers without a value.
    """
    model = onnx_ir.from_proto(graph)
    for value in model.graph.inputs:
        assert value.shape is not None
        dims = [dim if isinstance(dim, int) else resolve_dim(str(dim.value), sizes) for dim in value.shape]
        value.shape = onnx_ir.Shape(dims)
    for node in model.graph:
        for value in node.outputs:
            value.shape = None
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, onnx_ir.ExternalTensor):
            value.const_value = None
    _name_bfloat16_float16(model)
    onnxscript.optimizer.fold_constants(
        model, onnx_shape_inference=True, input_size_limit=_FOLD_LIMIT, output_size_limit=_FOLD_LIMIT
    )
    passes.RemoveUnusedNodesPass()(model)
    return model


def _name_bfloat16_float16(model: onnx_ir.Model) -> None:
    """As large and as many: the inference of shapes knows no convolution in bfloat16."""
    half, brain = onnx_ir.DataType.FLOAT16, onnx_ir.DataType.BFLOAT16
    initializers = model.graph.initializers.values()
    for value in (*model.graph.inputs, *initializers, *(output for node in model.graph for output in node.outputs)):
        if value.dtype == brain:
            value.dtype = half
        if value.const_value is not None and value.const_value.dtype == brain:
            value.const_value = onnx_ir.tensor(value.const_value.numpy().astype("float16"), name=value.name)
    for node in model.graph:
        if node.op_type == "Cast" and node.attributes.get_int("to") == brain:
            node.attributes["to"] = onnx_ir.AttrInt64("to", int(half))


def fixed_values(model: onnx_ir.Model) -> set[onnx_ir.Value]:
    """What no input changes: weights, constants, and what is made of those alone, as a transposed weight is."""
    fixed = set(model.graph.initializers.values())
    for node in model.graph:
        if all(value is None or value in fixed for value in node.inputs):
            fixed |= set(node.outputs)
    return fixed


def dims(value: onnx_ir.Value) -> tuple[int, ...]:
    """The shape of a tensor of a static graph."""
    assert value.shape is not None, value.name
    assert value.shape.is_static(), f"{value.name} has the shape {value.shape}"
    return tuple(int(dim) for dim in value.shape.numpy())


def elements(value: onnx_ir.Value) -> int:
    """How many numbers a tensor of a static graph holds."""
    return math.prod(dims(value))


def size_in_bytes(value: onnx_ir.Value) -> int:
    """The memory that a tensor of a static graph takes."""
    assert value.dtype is not None, value.name
    return int(elements(value) * value.dtype.itemsize)
