"""What the exporter leaves to do: sizes from the right inputs, fewer nodes, names for axes, and no weights."""

import ast
from collections.abc import Callable, Mapping

import onnx_ir
import onnxscript.optimizer
import sympy
import torch
from onnx_ir.passes import common as passes
from onnx_ir.tensor_adapters import TorchTensor

from deepcache_trt.models.architecture import Architecture

# The location of a weight before `weights.bind` has given it one.
UNBOUND = "unbound"

# Enough for shape arithmetic and the timestep's frequency table, too little for a weight.
_FOLD_LIMIT = 1024

# How whole numbers are computed; ONNX's division of them rounds down, as sizes are not negative.
_OPERATORS: dict[type[ast.operator], str] = {ast.Add: "Add", ast.Mult: "Mul", ast.FloorDiv: "Div"}


def tidy(graph: onnx_ir.Model, architecture: Architecture, buffers: Callable[[str], torch.Tensor | None]) -> None:
    """Make of an exported program's graph the one that is kept.

    Args:
        graph: its initializers that are to be bound to a checkpoint have no value.
        architecture: of the model.
        buffers: gives the value of an initializer that no checkpoint has; None for one that a checkpoint has.
    """
    _read_sizes_off_first_inputs(graph, architecture)
    _optimize(graph)
    _name_axes(graph, architecture)
    _give_buffers(graph, buffers)
    _leave_weights_out(graph)


def _read_sizes_off_first_inputs(model: onnx_ir.Model, architecture: Architecture) -> None:
    """Take every size from the first input that has its axis; torch takes any, and each cut would keep it."""
    specs = dict(zip(model.graph.inputs, architecture.inputs, strict=True))
    first: dict[str | int, tuple[onnx_ir.Value, int]] = {}
    for value, spec in specs.items():
        for position, dim in enumerate(spec.shape):
            first.setdefault(dim, (value, position))
    for node in list(model.graph):
        read = node.inputs[0] if node.op_type == "Shape" else None
        if read not in specs:
            continue
        start, end = (node.attributes.get_int(name, 0) for name in ("start", "end"))
        if end != start + 1:
            continue  # several sizes: a reshape of this very input
        nodes: list[onnx_ir.Node] = []
        size = _size_nodes(ast.parse(str(specs[read].shape[start]), mode="eval").body, first, nodes)
        model.graph.insert_before(node, nodes)
        onnx_ir.convenience.replace_all_uses_with(node.outputs[0], size)


def _size_nodes(
    dim: ast.expr, first: Mapping[str | int, tuple[onnx_ir.Value, int]], nodes: list[onnx_ir.Node]
) -> onnx_ir.Value:
    """One dimension of a `TensorSpec` as a tensor of one whole number; the nodes that compute it are added to `nodes`.

    Args:
        dim: a number, an axis, or a sum, product or quotient of these.
        first: the inputs that axes are read off, and where.
        nodes: of the graph so far, in their order.
    """
    match dim:
        case ast.Constant(value=int() as number):
            node = onnx_ir.node("Constant", [], {"value_ints": [number]})
        case ast.Name(id=axis):
            value, position = first[axis]
            node = onnx_ir.node("Shape", [value], {"start": position, "end": position + 1})
        case ast.BinOp(left=left, op=op, right=right):
            operands = [_size_nodes(side, first, nodes) for side in (left, right)]
            node = onnx_ir.node(_OPERATORS[type(op)], operands)
        case _:
            raise AssertionError(f"no dimension: {ast.unparse(dim)}")
    nodes.append(node)
    return node.outputs[0]


def _optimize(model: onnx_ir.Model) -> None:
    """Fold and clean; the pattern rewriter of `optimize_ir` is left out, which takes minutes on SDXL for few nodes."""
    passes.InlinePass()(model)
    onnxscript.optimizer.fold_constants(
        model, onnx_shape_inference=True, input_size_limit=_FOLD_LIMIT, output_size_limit=_FOLD_LIMIT
    )
    for clean in (
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedFunctionsPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.ClearMetadataAndDocStringPass(),
    ):
        clean(model)


def _name_axes(model: onnx_ir.Model, architecture: Architecture) -> None:
    """Name inputs and outputs, and write every symbolic shape in terms of batch, height, width and sequence."""
    known: dict[sympy.Symbol, sympy.Expr] = {}
    axes = {axis: sympy.Symbol(axis, integer=True, positive=True) for axis in architecture.axes}
    for value, spec in zip(model.graph.inputs, architecture.inputs, strict=True):
        value.name = spec.name
        for dim, axis in zip(value.shape or (), spec.shape, strict=True):
            if isinstance(axis, str) and not isinstance(dim, int):
                traced = sympy.sympify(dim.value)
                (symbol,) = traced.free_symbols
                known.setdefault(symbol, sympy.solve(traced - sympy.sympify(axis, axes), symbol)[0])
        value.shape = onnx_ir.Shape(spec.shape)
    names = [*(spec.name for spec in architecture.outputs), *(tap.name for tap in architecture.taps)]
    for value, name in zip(model.graph.outputs, names, strict=True):
        value.name = name
    renamed: dict[str, str | int] = {}
    for value in (output for node in model.graph for output in node.outputs):
        if value.shape is not None:
            value.shape = onnx_ir.Shape([_rename(dim, known, renamed) for dim in value.shape])


def _rename(
    dim: int | onnx_ir.SymbolicDim, known: Mapping[sympy.Symbol, sympy.Expr], renamed: dict[str, str | int]
) -> int | str | None:
    if isinstance(dim, int) or dim.value is None:
        return dim if isinstance(dim, int) else None
    if dim.value not in renamed:
        expression = sympy.simplify(sympy.sympify(dim.value).subs(known))
        renamed[dim.value] = int(expression) if expression.is_Integer else str(expression)
    return renamed[dim.value]


def _give_buffers(graph: onnx_ir.Model, buffers: Callable[[str], torch.Tensor | None]) -> None:
    """Store the values of what no checkpoint has in the graph."""
    for name, value in graph.graph.initializers.items():
        buffer = buffers(name) if value.const_value is None else None
        if buffer is not None:
            value.const_value = TorchTensor(buffer.contiguous(), name=name)  # numpy has no bfloat16


def _leave_weights_out(graph: onnx_ir.Model) -> None:
    """Declare every weight as external data that is nowhere yet: name, dtype and shape are what the graph knows."""
    for name, value in graph.graph.initializers.items():
        if value.const_value is None:
            assert value.shape is not None
            assert value.dtype is not None
            value.const_value = onnx_ir.ExternalTensor(
                UNBOUND, 0, 0, value.dtype, shape=value.shape, name=name, base_dir=""
            )
