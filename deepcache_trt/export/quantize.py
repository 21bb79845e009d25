"""Explicit Q/DQ: some layers of a graph compute in 8 bits, and every backend reads which and how off the graph.

    x ── QuantizeLinear ── DequantizeLinear ──┐
                                              Conv / MatMul / Gemm ── y
    weight (8 bits) ───── DequantizeLinear ───┘

Weights are symmetric with a scale for each output channel, activations symmetric with one scale for each tensor. It is
done to the full graph, before anything is cut from it, so variants and segments share what is quantized.

The graph has no weights and neither have its quantized ones: they are written by `quantized_weights` into safetensors,
and bound like all others. The quantizers of other packages read weights out of the graph, and run it to see its
activations; so the nodes are written here.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import onnx
import torch
from onnx import TensorProto, helper

from deepcache_trt.export.layers import Layer
from deepcache_trt.export.precision import Precision
from deepcache_trt.export.tidy import UNBOUND

_ZERO = "zero_of_8_bits"

# ONNX's names of what is stored, by torch's.
_STORAGE = {"int8": TensorProto.INT8, "float8_e4m3fn": TensorProto.FLOAT8E4M3FN}


def quantize(
    graph: onnx.ModelProto, layers: Sequence[Layer], scales: Mapping[str, float], precision: Precision
) -> onnx.ModelProto:
    """A full graph in which some layers compute in 8 bits.

    Args:
        graph: its weights external data; left untouched.
        layers: those of `layers_of` that are to be quantized.
        scales: the scale of each layer's activation, by the name of its weight.
        precision: of these layers.

    Returns:
        A new model that reads what `quantized_weights` writes in the place of the layers' weights.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    body = model.graph
    rewriting = _Rewriting(body, scales, precision)
    by_node = {layer.node: layer for layer in layers}
    for node in body.node:
        layer = by_node.get(node.output[0])
        if layer is None:
            rewriting.nodes.append(node)
        else:
            rewriting.quantize(node, layer)
    replaced = {layer.weight for layer in layers}
    kept = [init for init in body.initializer if init.name not in replaced]
    del body.node[:], body.initializer[:]
    # What transposed weights has nothing to transpose any more.
    body.node.extend(node for node in rewriting.nodes if not replaced.intersection(node.input))
    body.initializer.extend([*kept, *rewriting.initializers])
    body.value_info.extend(rewriting.values)
    return model


class _Rewriting:
    """The nodes of a graph as they are written anew.

    Layers in bfloat16 are given float32 and give it, as OpenVINO, which alone runs them in 8 bits on a CPU, takes
    whatever it has dequantized for float32; it multiplies whole numbers all the same.
    """

    def __init__(self, graph: onnx.GraphProto, scales: Mapping[str, float], precision: Precision) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._precision = precision
        self.initializers = [helper.make_tensor(_ZERO, _STORAGE[precision.storage], [], bytes(1), raw=True)]
        self.values: list[onnx.ValueInfoProto] = []
        self._scales = scales
        self._dtypes = {init.name: init.data_type for init in graph.initializer}
        self._known = {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}
        self._quantized: dict[str, str] = {}  # by activation, what is read in its place

    def quantize(self, node: onnx.NodeProto, layer: Layer) -> None:
        """Write a layer's node, and before it what quantizes its activation and dequantizes its weight."""
        dtype = self._dtypes[layer.weight]
        inside = _scale_dtype(dtype)
        if layer.activation not in self._quantized:
            self._quantized[layer.activation] = self._pair(layer, dtype, inside)
        weight = f"{layer.weight}.dequantized"
        stored, scale = layer.stored(self._precision), layer.scale(self._precision)
        self.initializers.append(_unbound(stored, _STORAGE[self._precision.storage], layer.stored_shape))
        self.initializers.append(_unbound(scale, inside, (layer.shape[layer.channels],)))
        inputs = [stored, scale]
        self.nodes.append(helper.make_node("DequantizeLinear", inputs, [weight], axis=layer.stored_channels))
        node.input[0], node.input[1] = self._quantized[layer.activation], weight
        if inside != dtype:
            for place, name in enumerate(node.input[2:], 2):
                node.input[place] = self._cast(name, f"{layer.weight}.bias", inside)
            given, node.output[0] = node.output[0], f"{layer.weight}.given"
            self.nodes.append(node)
            self.nodes.append(helper.make_node("Cast", [node.output[0]], [given], to=dtype))
        else:
            self.nodes.append(node)

    def _pair(self, layer: Layer, dtype: int, inside: int) -> str:
        """Quantize and dequantize a layer's activation; returns the name of what comes out."""
        tensor, scale = layer.activation, f"{layer.weight}.input_scale"
        self.initializers.append(helper.make_tensor(scale, inside, [], [self._scales[layer.weight]]))
        whole, back = f"{tensor}.{self._precision.name}", f"{tensor}.dequantized"
        read = tensor if inside == dtype else self._cast(tensor, f"{tensor}.float", inside)
        self.nodes.append(helper.make_node("QuantizeLinear", [read, scale, _ZERO], [whole]))
        self.nodes.append(helper.make_node("DequantizeLinear", [whole, scale, _ZERO], [back]))
        if tensor in self._known:
            value = onnx.ValueInfoProto()
            value.CopyFrom(self._known[tensor])
            value.name, value.type.tensor_type.elem_type = back, inside
            self.values.append(value)
        return back

    def _cast(self, tensor: str, name: str, dtype: int) -> str:
        self.nodes.append(helper.make_node("Cast", [tensor], [name], to=dtype))
        return name


def _scale_dtype(dtype: int) -> int:
    """The ONNX dtype of the scales, and of what layers are given and give, in a graph whose weights have `dtype`."""
    return TensorProto.FLOAT if dtype == TensorProto.BFLOAT16 else dtype


def _unbound(name: str, dtype: int, shape: Sequence[int]) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, data_type=dtype, dims=shape, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=UNBOUND)
    return tensor


def quantized_weights(
    tensors: Iterable[tuple[str, torch.Tensor]], layers: Iterable[Layer], precision: Precision
) -> Iterator[tuple[str, torch.Tensor]]:
    """A state dict as the quantized graph reads it: weights of 8 bits and their scales, the others as they are.

    Args:
        tensors: of the state dict, by name.
        layers: those that are quantized.
        precision: theirs.
    """
    by_weight = {layer.weight: layer for layer in layers}
    for name, tensor in tensors:
        layer = by_weight.get(name)
        if layer is None:
            yield name, tensor
            continue
        stored, scale = quantized_weight(tensor, precision, channels=layer.channels)
        yield layer.stored(precision), stored.T.contiguous() if layer.is_transposed else stored
        yield layer.scale(precision), scale


def quantized_weight(weight: torch.Tensor, precision: Precision, *, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight in 8 bits, symmetric, and the scale of each output channel.

    Args:
        weight: of any shape.
        precision: what it is stored in.
        channels: its axis that counts output channels.

    Returns:
        What is stored, of the same shape, and [output channels] float32, or float16 for a weight that is.
    """
    dtype = torch.float16 if weight.dtype == torch.float16 else torch.float32
    others = [axis for axis in range(weight.ndim) if axis != channels]
    largest = weight.detach().float().abs().amax(dim=others, keepdim=True)
    # A channel of zeros has any scale; one that the dtype rounds to zero would make it infinite.
    scale = (largest / precision.largest).clamp(min=torch.finfo(dtype).tiny).to(dtype)
    return stored_as(weight.detach().float() / scale.float(), precision), scale.flatten()


def stored_as(scaled: torch.Tensor, precision: Precision) -> torch.Tensor:
    """The nearest numbers of a precision to what has been divided by its scale."""
    within = scaled.clamp(-precision.largest, precision.largest)
    return (within.round() if precision.is_whole else within).to(getattr(torch, precision.storage))
