"""What a graph costs, on graphs that are small enough to count by hand, and on those of real models."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from deepcache_trt.benchmarks.counting.cost import Cost, cost_of
from deepcache_trt.benchmarks.counting.macs import Macs
from deepcache_trt.export.cut import cut
from deepcache_trt.export.layers import layers_of
from deepcache_trt.export.precision import INT8
from deepcache_trt.export.quantize import quantize
from deepcache_trt.models.taps import Variant
from deepcache_trt.runtime.policies.deepcache import variants_at
from tests import tiny
from tests.export.exported import export

SIZES = {"batch": 2, "height": 16, "width": 8, "sequence": 7}
HALF, FLOAT = 2, 4  # bytes


def weight(name: str, *shape: int) -> onnx.TensorProto:
    """A weight as an exported graph has it: outside of the graph, and nowhere yet."""
    tensor = onnx.TensorProto(name=name, data_type=TensorProto.FLOAT16, dims=shape)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="unbound")
    return tensor


def graph(
    nodes: list[onnx.NodeProto], inputs: dict[str, list[int | str]], output: str, *weights: onnx.TensorProto
) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape) for name, shape in inputs.items()]
    given = helper.make_tensor_value_info(output, TensorProto.FLOAT16, None)
    model = helper.make_graph(nodes, "test", values, [given], initializer=weights)
    return helper.make_model(model, opset_imports=[helper.make_opsetid("", 20)])


def test_a_convolution_reads_its_input_and_its_weights_and_writes_its_output() -> None:
    """What follows rides on it; unfused, that reads and writes the whole tensor once more."""
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["y"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["y"], ["z"]),
    ]
    cost = cost_of(graph(nodes, {"x": ["batch", 3, "height", "width"]}, "z", weight("kernel", 5, 3, 3, 3)), SIZES)
    x, y, kernel = 2 * 3 * 16 * 8, 2 * 5 * 16 * 8, 5 * 3 * 3 * 3
    assert cost.macs == Macs(weights=y * 3 * 3 * 3, attention=0)
    assert cost.parameters == kernel
    assert cost.weights == HALF * kernel
    assert cost.inputs == {"x": HALF * x}
    assert cost.least == cost.layers == HALF * (x + kernel + y)
    assert cost.unfused == HALF * (x + kernel + y) + HALF * (y + y)


def test_a_quantized_layer_reads_bytes_and_writes_halves() -> None:
    """The rounding of its input rides on what made that."""
    whole = graph(
        [
            helper.make_node("Sigmoid", ["x"], ["y"]),
            helper.make_node("Conv", ["y", "kernel.weight"], ["z"], pads=[1, 1, 1, 1]),
        ],
        {"x": ["batch", 3, "height", "width"]},
        "z",
        weight("kernel.weight", 5, 3, 3, 3),
    )
    layers = layers_of(whole)
    cost = cost_of(quantize(whole, layers, {"kernel.weight": 1.0}, INT8), SIZES)
    x, y, kernel, channels = 2 * 3 * 16 * 8, 2 * 5 * 16 * 8, 5 * 3 * 3 * 3, 5
    assert cost.macs == cost_of(whole, SIZES).macs
    assert cost.parameters == kernel
    assert cost.weights == kernel + HALF * channels
    assert cost.layers == x + kernel + HALF * y
    assert [each.in_8_bits for each in cost.kernels] == [True]
    assert not any(each.in_8_bits for each in cost_of(whole, SIZES).kernels)


def test_a_linear_layer_reads_its_weights_as_they_are_stored() -> None:
    """The transposition is done before the first run; a view of the same bytes moves nothing."""
    nodes = [
        helper.make_node("Transpose", ["matrix"], ["transposed"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "transposed"], ["y"]),
        helper.make_node("Unsqueeze", ["y", "axes"], ["z"]),
    ]
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [0])
    cost = cost_of(graph(nodes, {"x": ["batch", "sequence", 4]}, "z", weight("matrix", 6, 4), axes), SIZES)
    assert cost.macs == Macs(weights=2 * 7 * 4 * 6, attention=0)
    assert cost.parameters == 4 * 6
    assert cost.least == cost.layers == cost.unfused == HALF * (2 * 7 * 4 + 4 * 6 + 2 * 7 * 6)


def test_attention_keeps_its_scores_on_the_chip_unless_nothing_is_fused() -> None:
    nodes = [
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["scores"]),
        helper.make_node("Cast", ["scores"], ["precise"], to=TensorProto.FLOAT),
        helper.make_node("Softmax", ["precise"], ["shares"], axis=-1),
        helper.make_node("Cast", ["shares"], ["probabilities"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["probabilities", "v"], ["y"]),
    ]
    rows: list[int | str] = ["batch", "height", 4]
    cost = cost_of(graph(nodes, {"q": rows, "k": rows, "v": rows}, "y"), SIZES)
    tensor, scores = 2 * 16 * 4, 2 * 16 * 16
    assert cost.macs == Macs(weights=0, attention=2 * (2 * 16 * 16 * 4))
    assert cost.layers == cost.least == HALF * 4 * tensor
    softmax = 2 * FLOAT * scores + 2 * (HALF + FLOAT) * scores  # between two casts
    assert cost.unfused == HALF * (2 * tensor) + HALF * 2 * (2 * tensor + scores) + softmax


@pytest.mark.parametrize("name", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("sd15", "svd")), "ddpm"])
def test_a_real_graph_moves_no_less_than_it_has_to(name: str, store_root: Path, tmp_path: Path) -> None:
    model = tiny.denoiser(name)
    exported = export(model, name, store_root, tmp_path)
    sizes = {"batch": 2, "height": 16, "width": 8, "sequence": 7}
    costs: dict[str, Cost] = {}
    for variant in (Variant(name="whole"), *variants_at(0)):
        costs[variant.name] = cost = cost_of(cut(exported.graph, variant), sizes)
        state = model.state_dict()
        assert cost.parameters == sum(state[weight].numel() for weight in exported.weights_of(variant))
        assert cost.weights == FLOAT * cost.parameters
        assert cost.weights < cost.least < cost.unfused
        assert cost.layers < cost.unfused
    tap = costs["shallow"].inputs["tap_0"]
    assert costs["full"].least == costs["whole"].least + tap  # which a full step of a cached generation writes
    assert costs["shallow"].least < costs["whole"].least / 2


def test_twice_the_batch_moves_twice_the_activations_and_the_weights_once(store_root: Path, tmp_path: Path) -> None:
    exported = export(tiny.denoiser("ddpm"), "ddpm", store_root, tmp_path)
    one, two = (
        cost_of(cut(exported.graph, Variant(name="whole")), {"batch": batch, "height": 8, "width": 8})
        for batch in (1, 2)
    )
    timestep = FLOAT  # one for all images
    assert two.least - two.weights - timestep == 2 * (one.least - one.weights - timestep)
    assert two.weights == one.weights
    assert two.macs.attention == 2 * one.macs.attention
