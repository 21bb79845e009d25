"""What is told of a layer by what is computed before it."""

import onnx
import pytest
from onnx import TensorProto, helper

from deepcache_trt.export.layers import Layer, layers_of
from tests.export.quantized.small_graphs import unbound

CHANNELS = 4


def graph() -> onnx.ModelProto:
    """Layers named by what they read, of an image x at its own size and of half of it."""
    node = helper.make_node

    def conv(name: str, read: str, stride: int = 1) -> onnx.NodeProto:
        return node("Conv", [read, f"{name}.weight"], [name], pads=[1] * 4, strides=[stride] * 2)

    def linear(name: str, read: str) -> list[onnx.NodeProto]:
        turned = f"{name}_t"
        return [
            node("Transpose", [f"{name}.weight"], [turned], perm=[1, 0]),
            node("MatMul", [read, turned], [name]),
        ]

    nodes = [
        conv("first", "x"),
        conv("halving", "first", stride=2),
        node("Sigmoid", ["halving"], ["sigmoid"]),
        node("Mul", ["halving", "sigmoid"], ["silu"]),
        conv("after_silu", "silu"),
        node("Add", ["after_silu", "halving"], ["residual"]),
        node("Reshape", ["residual", "rows"], ["flat"]),
        node("Transpose", ["flat"], ["tokens"], perm=[0, 2, 1]),
        *linear("of_residual", "tokens"),
        node("LayerNormalization", ["tokens", "gain"], ["normal"]),
        *linear("of_normal", "normal"),
        node("CastLike", ["bias", "normal"], ["typed"]),
        node("Add", ["normal", "typed"], ["biased"]),
        *linear("of_biased", "biased"),
        node("Split", ["of_normal"], ["gated", "gate"], axis=2, num_outputs=2),
        node("Gelu", ["gate"], ["open"]),
        node("Mul", ["gated", "open"], ["product"]),
        *linear("of_product", "product"),
    ]
    weights = {
        **dict.fromkeys(("first.weight", "halving.weight", "after_silu.weight"), (CHANNELS, CHANNELS, 3, 3)),
        **dict.fromkeys(("of_residual.weight", "of_normal.weight", "of_biased.weight"), (CHANNELS, CHANNELS)),
        "of_product.weight": (CHANNELS, CHANNELS // 2),
        "gain": (CHANNELS,),
        "bias": (CHANNELS,),
    }
    outputs = ("of_residual", "of_biased", "of_product")
    body = helper.make_graph(
        nodes,
        "layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", CHANNELS, "height", "width"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [
            *(unbound(name, shape, TensorProto.FLOAT) for name, shape in weights.items()),
            helper.make_tensor("rows", TensorProto.INT64, [3], [0, CHANNELS, -1]),
        ],
        value_info=[
            helper.make_tensor_value_info("first", TensorProto.FLOAT, ["batch", CHANNELS, "height", "width"]),
            helper.make_tensor_value_info("silu", TensorProto.FLOAT, ["batch", CHANNELS, "height/2", "width/2"]),
            helper.make_tensor_value_info("normal", TensorProto.FLOAT, ["batch", "height*width/4", CHANNELS]),
            # No such tensor can come of `normal`, and nothing here asks.
            helper.make_tensor_value_info("biased", TensorProto.FLOAT, ["batch", "height*width/16", CHANNELS]),
        ],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture(scope="module")
def layers() -> dict[str, Layer]:
    found = layers_of(graph())
    assert [layer.name for layer in found] == [
        *("first", "halving", "after_silu", "of_residual", "of_normal", "of_biased", "of_product")
    ]
    return {layer.name: layer for layer in found}


def test_what_reads_a_sum_or_a_convolution_as_it_is_reads_a_sum(layers: dict[str, Layer]) -> None:
    assert [name for name, layer in layers.items() if layer.reads_sum] == ["first", "halving", "of_residual"]


def test_what_reads_a_gate_reads_a_product_and_a_nonlinearity_is_none(layers: dict[str, Layer]) -> None:
    assert [name for name, layer in layers.items() if layer.reads_product] == ["of_product"]


def test_how_often_the_sample_has_been_halved_is_read_off_images_and_off_their_rows(layers: dict[str, Layer]) -> None:
    levels = {name: layers[name].level for name in ("first", "halving", "after_silu", "of_normal", "of_biased")}
    assert levels == {"first": 0, "halving": 0, "after_silu": 1, "of_normal": 1, "of_biased": 2}
