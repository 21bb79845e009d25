"""The layers of a graph that can be quantized, and what of their surroundings says how well they bear it."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from deepcache_trt.errors import UnsupportedError
from deepcache_trt.export.precision import Precision
from deepcache_trt.tensors import Dim, resolve_dim

# Node types that multiply a tensor with weights.
_MULTIPLY = ("Conv", "Gemm", "MatMul")

# Node types that move values about, or divide all of them by one.
_MOVING = (
    *("Cast", "CastLike", "Concat", "Div", "Identity", "Pad", "Reshape", "Resize"),
    *("Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
)

# Of every axis, where it is only asked how sizes compare.
_SIZES: defaultdict[str, int] = defaultdict(lambda: 1024)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What multiplies an activation with one weight, and so can be quantized.

    Attributes:
        weight: its name in the state dict.
        shape: of the weight in the state dict.
        channels: the axis of that which counts output channels.
        is_transposed: whether the graph reads the weight, a matrix, transposed.
        activation: the tensor in the graph that it is multiplied with.
        node: the output of the node that does so, which tells it apart.
        reads_sample: whether the activation depends on the model's first input, and not on the timestep or the
            condition alone.
        reads_sum: whether the activation is what residual connections have added up, or a convolution has given, with
            no normalisation and no nonlinearity after it: a few channels of such sums are far larger than all others.
        reads_product: whether it is a product of two of the model's tensors, as a gate gives, whose tails are long.
        level: how often the rows and columns of the model's first input have been halved in the activation.
    """

    weight: str
    shape: tuple[int, ...]
    channels: int
    is_transposed: bool
    activation: str
    node: str
    reads_sample: bool
    reads_sum: bool
    reads_product: bool
    level: int

    @property
    def name(self) -> str:
        """Of the module in the model that it is."""
        return self.weight.removesuffix(".weight")

    def stored(self, precision: Precision) -> str:
        """The name of its quantized weight."""
        return f"{self.weight}.{precision.name}"

    def scale(self, precision: Precision) -> str:
        """The name of the scales of its weight, [output channels]."""
        return f"{self.weight}.{precision.name}_scale"

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of its quantized weight, as the graph reads it."""
        return self.shape[::-1] if self.is_transposed else self.shape

    @property
    def stored_channels(self) -> int:
        """The axis of that which counts output channels."""
        return 1 - self.channels if self.is_transposed else self.channels


def layers_of(graph: onnx.ModelProto) -> tuple[Layer, ...]:
    """Every layer of a full graph that can be quantized, in an order in which they run.

    Args:
        graph: its weights external data; left untouched.

    Raises:
        UnsupportedError: the graph is quantized already.
    """
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in graph.graph.node):
        raise UnsupportedError("the graph is quantized already, and scales of scales would be none; give the float one")
    surroundings = _Surroundings(graph)
    layers = [layer for node in graph.graph.node if (layer := surroundings.layer(node)) is not None]
    uses = Counter(name for node in graph.graph.node for name in node.input)
    # A weight that something else reads too, as that of an embedding, stays as it is.
    made = surroundings.made
    return tuple(layer for layer in layers if uses[layer.weight] == 1 and uses[made[layer.node].input[1]] == 1)


class _Surroundings:
    """What is asked of a graph about each of its nodes."""

    def __init__(self, graph: onnx.ModelProto) -> None:
        body = graph.graph
        self.made = {name: node for node in body.node for name in node.output}
        self._shapes = {init.name: tuple(init.dims) for init in body.initializer}
        self._external = {init.name for init in body.initializer if init.data_location == TensorProto.EXTERNAL}
        self._sample = _depends_on(body.node, body.input[0].name)
        known = (*body.value_info, *body.input, *body.output)
        self._dims = {value.name: _dims(value) for value in known}
        self._whole = self._positions(self._dims[body.input[0].name]) or 1

    def layer(self, node: onnx.NodeProto) -> Layer | None:
        """The layer that a node is; None where what it multiplies with is no weight of the checkpoint."""
        if node.op_type not in _MULTIPLY:
            return None
        weight, is_transposed = node.input[1], False
        before = self.made.get(weight)
        if node.op_type == "MatMul" and before is not None and before.op_type == "Transpose":
            weight, is_transposed = before.input[0], True
        if weight not in self._external or (is_transposed and len(self._shapes[weight]) != 2):
            return None
        shape = self._shapes[weight]
        trans_b = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        out_first = node.op_type == "Conv" or is_transposed or trans_b
        return Layer(
            weight=weight,
            shape=shape,
            channels=0 if out_first else len(shape) - 1,
            is_transposed=is_transposed,
            activation=node.input[0],
            node=node.output[0],
            reads_sample=node.input[0] in self._sample,
            reads_sum=self._is_sum(node.input[0]),
            reads_product=self._is_product(node.input[0]),
            level=self._level(self._dims.get(node.input[0], ())),
        )

    def _is_sum(self, tensor: str) -> bool:
        node = self.made.get(tensor)
        if node is None or node.op_type == "Conv":
            return True
        if node.op_type in _MOVING:
            return any(self._is_sum(name) for name in node.input if name in self._sample)
        # What is added besides may be a bias, or made of the timestep.
        return node.op_type == "Add" and self._sample.issuperset(node.input)

    def _is_product(self, tensor: str) -> bool:
        node = self.made.get(tensor)
        if node is None or node.op_type != "Mul" or not self._sample.issuperset(node.input):
            return False
        # A nonlinearity such as SiLU multiplies a tensor with a function of itself.
        return not any(self._is_function_of(*pair) for pair in (node.input, reversed(node.input)))

    def _is_function_of(self, tensor: str, other: str) -> bool:
        """Whether a tensor is made of `other` alone, by nodes that read one tensor of the model each."""
        while tensor != other:
            node = self.made.get(tensor)
            read = [name for name in node.input if name in self._sample] if node is not None else []
            if len(read) != 1:
                return False
            (tensor,) = read
        return True

    def _level(self, dims: Sequence[Dim]) -> int:
        """Of an image [B, C, H, W], or of the rows of one [B, H * W, C]; 1 where it is neither."""
        positions = self._positions(dims)
        return 1 if positions is None else max(0, round(math.log(self._whole / positions, 4)))

    def _positions(self, dims: Sequence[Dim]) -> int | None:
        counted = {3: dims[1:2]}.get(len(dims), dims[-2:] if len(dims) > 3 else ())
        try:
            return math.prod(resolve_dim(dim, _SIZES) for dim in counted) if counted else None
        except (KeyError, ValueError):
            return None


def _dims(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)


def _depends_on(nodes: Iterable[onnx.NodeProto], name: str) -> set[str]:
    """The tensors whose values depend on the tensor `name`, and not on its shape or its dtype alone."""
    depending = {name}
    for node in nodes:
        read = node.input[:1] if node.op_type == "CastLike" else node.input
        if node.op_type != "Shape" and depending.intersection(read):
            depending.update(node.output)
    return depending
