"""Q/DQ in a graph: which layers there are, and that what it computes is what quantized tensors give."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from deepcache_trt.errors import UnsupportedError
from deepcache_trt.export.layers import layers_of
from deepcache_trt.export.precision import FP8, INT8, PRECISIONS, Precision
from deepcache_trt.export.quantize import quantize, quantized_weight, quantized_weights, stored_as
from tests.export.quantized.small_graphs import run, small_graph, state

SCALES = {"conv.weight": 0.02, "linear.weight": 0.3, "gemm.weight": 0.02, "out.weight": 0.5}


def inputs() -> dict[str, np.ndarray]:
    dice = np.random.default_rng(0)
    return {"x": dice.standard_normal((2, 4, 5, 5), np.float32), "t": dice.standard_normal((2, 3), np.float32)}


def rounded(tensor: torch.Tensor, scale: float, precision: Precision) -> torch.Tensor:
    return stored_as(tensor / scale, precision).float() * scale


def share_within(a: np.ndarray, b: np.ndarray, distance: float) -> float:
    return float((np.abs(a - b) <= distance * (1 + np.abs(b))).mean())


def rounded_weight(weight: torch.Tensor, precision: Precision) -> torch.Tensor:
    whole, scale = quantized_weight(weight, precision, channels=0)
    return whole.float() * scale.reshape(-1, *[1] * (weight.ndim - 1))


def test_layers_are_what_multiplies_an_activation_with_a_weight_of_its_own() -> None:
    layers = layers_of(small_graph())
    assert [layer.name for layer in layers] == ["conv", "linear", "gemm", "out"]
    assert [layer.name for layer in layers if not layer.reads_sample] == ["gemm"]
    assert {layer.name: layer.stored_shape for layer in layers}["linear"] == (6, 5)


@pytest.mark.parametrize("precision", PRECISIONS.values(), ids=str)
def test_the_quantized_graph_computes_what_rounded_tensors_give(tmp_path: Path, precision: Precision) -> None:
    graph, weights, given_inputs = small_graph(), state(), inputs()
    layers = layers_of(graph)
    scales = {name: scale * INT8.largest / precision.largest for name, scale in SCALES.items()}
    tensors = dict(quantized_weights(weights.items(), layers, precision))
    # ONNX Runtime would fuse nodes of small numbers as it fuses those of whole ones, which it then cannot run.
    fused = precision.is_whole
    quantized = run(quantize(graph, layers, scales, precision), tensors, given_inputs, tmp_path / "q", fused=fused)

    def activation(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return rounded(tensor, scales[f"{name}.weight"], precision)

    def weight(name: str) -> torch.Tensor:
        return rounded_weight(weights[f"{name}.weight"], precision)

    x, t = (torch.from_numpy(given_inputs[name]) for name in ("x", "t"))
    convolved = torch.nn.functional.conv2d(activation("conv", x), weight("conv"), weights["conv.bias"], padding=1)
    c = convolved.permute(0, 2, 3, 1)
    linear = activation("linear", c) @ weight("linear").T
    expected = {
        "y": activation("out", linear) @ weight("out").T,
        "g": activation("gemm", t) @ weight("gemm").T + weights["gemm.bias"],
        "tied": c @ weights["table.weight"].T,
        "products": linear @ linear.mT,
    }
    whole = run(graph, weights, given_inputs, tmp_path / "whole")
    for name, value in expected.items():
        # A value on the border of two steps may be rounded to either, and is read by many.
        assert share_within(quantized[name], value.numpy(), 1e-4) > 0.8, name
    assert share_within(whole["y"], expected["y"].numpy(), 1e-4) < 0.05


def test_a_layer_that_is_not_chosen_stays_bit_for_bit(tmp_path: Path) -> None:
    graph, weights, given_inputs = small_graph(), state(), inputs()
    layers = [layer for layer in layers_of(graph) if layer.name == "out"]
    tensors = dict(quantized_weights(weights.items(), layers, INT8))
    quantized = run(quantize(graph, layers, SCALES, INT8), tensors, given_inputs, tmp_path / "q")
    whole = run(graph, weights, given_inputs, tmp_path / "whole")
    for name in ("g", "tied", "products"):
        np.testing.assert_array_equal(whole[name], quantized[name])


def test_a_tensor_that_several_layers_read_is_quantized_once() -> None:
    graph = small_graph()
    second = onnx.helper.make_node("Conv", ["x", "second.weight"], ["second"], pads=[1] * 4)
    graph.graph.node.append(second)
    twin = onnx.TensorProto()
    twin.CopyFrom(graph.graph.initializer[0])
    twin.name = "second.weight"
    graph.graph.initializer.append(twin)
    layers = [layer for layer in layers_of(graph) if layer.activation == "x"]
    assert len(layers) == 2
    made = quantize(graph, layers, {"conv.weight": 0.1, "second.weight": 0.1}, INT8)
    assert sum(node.op_type == "QuantizeLinear" for node in made.graph.node) == 1


def test_a_graph_that_is_quantized_already_is_refused() -> None:
    graph = small_graph()
    made = quantize(graph, layers_of(graph), SCALES, INT8)
    with pytest.raises(UnsupportedError, match="is quantized already"):
        layers_of(made)


def test_the_graph_that_is_given_is_left_as_it_is() -> None:
    graph = small_graph()
    before = graph.SerializeToString()
    quantize(graph, layers_of(graph), SCALES, INT8)
    assert graph.SerializeToString() == before


@pytest.mark.parametrize(
    ("dtype", "inside"),
    [
        (TensorProto.FLOAT, TensorProto.FLOAT),
        (TensorProto.FLOAT16, TensorProto.FLOAT16),
        (TensorProto.BFLOAT16, TensorProto.FLOAT),
    ],
)
def test_every_tensor_of_the_graph_has_the_dtype_that_its_readers_take(dtype: int, inside: int) -> None:
    graph = small_graph(dtype)
    made = quantize(graph, layers_of(graph), SCALES, INT8)
    inferred = onnx.shape_inference.infer_shapes(made, check_type=True, strict_mode=True)
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    assert types["x.int8"] == TensorProto.INT8
    assert types["x.dequantized"] == inside
    assert types["l"] == dtype
    assert {value.name: value.type.tensor_type.elem_type for value in inferred.graph.output}["y"] == dtype


@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 9),
    exponent=st.integers(-6, 4),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_a_weight_is_never_off_by_more_than_half_a_step_of_its_channel(
    rows: int, columns: int, exponent: int, dtype: torch.dtype, seed: int
) -> None:
    drawn = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 10.0**exponent
    weight = drawn.to(dtype)
    whole, scale = quantized_weight(weight, INT8, channels=0)
    off = (whole.float() * scale.float()[:, None] - weight.float()).abs()
    # A scale that float16 rounds may leave the largest value a little outside of the range.
    assert bool((off <= scale.float()[:, None] * 0.5 + weight.float().abs() * 2e-2).all())
    assert int(whole.abs().max()) <= INT8.largest


def test_a_weight_of_small_numbers_of_8_bits_is_off_by_a_sixteenth_at_most() -> None:
    weight = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    stored, scale = quantized_weight(weight, FP8, channels=0)
    back = stored.float() * scale[:, None]
    normal = weight.abs() > 2**-6 * scale[:, None]  # below, steps are of one size
    assert bool(((back - weight).abs() <= weight.abs() * 2**-4)[normal].all())
    assert stored.dtype == torch.float8_e4m3fn


def test_a_channel_of_zeros_stays_zero() -> None:
    weight = torch.zeros(2, 3)
    weight[1] = 1.0
    whole, scale = quantized_weight(weight, INT8, channels=0)
    assert not whole[0].any()
    assert bool(scale.isfinite().all())
    assert whole[1].tolist() == [127, 127, 127]
