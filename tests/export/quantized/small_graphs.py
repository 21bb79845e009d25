"""Graphs as the exporter writes them: weights that lie nowhere yet, a matrix behind a transposition."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper

from deepcache_trt.export import parity, weights
from deepcache_trt.export.tidy import UNBOUND

WEIGHTS = {
    "conv.weight": (6, 4, 3, 3),
    "conv.bias": (6,),
    "linear.weight": (5, 6),
    "gemm.weight": (7, 3),
    "gemm.bias": (7,),
    "table.weight": (6, 6),
    "out.weight": (4, 5),
}


def unbound(name: str, shape: tuple[int, ...], dtype: int) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, data_type=dtype, dims=shape, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=UNBOUND)
    return tensor


def small_graph(dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """Of each kind of product one: two layers behind another, one of the time alone, one whose weight is read twice,
    and one of two activations.
    """
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "conv.weight", "conv.bias"], ["c"], pads=[1] * 4),
        node("Transpose", ["c"], ["rows"], perm=[0, 2, 3, 1]),
        node("Transpose", ["linear.weight"], ["linear_t"], perm=[1, 0]),
        node("MatMul", ["rows", "linear_t"], ["l"]),
        node("Gemm", ["t", "gemm.weight", "gemm.bias"], ["g"], transB=1),
        node("Transpose", ["table.weight"], ["table_t"], perm=[1, 0]),
        node("MatMul", ["rows", "table_t"], ["tied"]),
        node("ReduceSum", ["table.weight"], ["sum"], keepdims=0),
        node("Transpose", ["l"], ["l_t"], perm=[0, 1, 3, 2]),
        node("MatMul", ["l", "l_t"], ["products"]),
        node("Transpose", ["out.weight"], ["out_t"], perm=[1, 0]),
        node("MatMul", ["l", "out_t"], ["y"]),
    ]
    inputs: list[tuple[str, list[str | int | None]]] = [("x", ["batch", 4, 5, 5]), ("t", ["batch", 3])]
    outputs = ("y", "g", "tied", "sum", "products")
    body = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs],
        [helper.make_tensor_value_info(name, dtype, None) for name in outputs],
        [unbound(name, shape, dtype) for name, shape in WEIGHTS.items()],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def state(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in WEIGHTS.items()}


def run(
    graph: onnx.ModelProto,
    tensors: dict[str, torch.Tensor],
    inputs: dict[str, np.ndarray],
    folder: Path,
    *,
    fused: bool = True,
) -> dict[str, np.ndarray]:
    """What ONNX Runtime makes of a graph with these weights in a file, node by node unless `fused`."""
    folder.mkdir()
    files = weights.write(tensors.items(), folder)
    weights.save_bound(graph, weights.locate(files), folder / "graph.onnx")
    if fused:
        return parity.run_session(parity.open_session(folder / "graph.onnx"), inputs)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(folder / "graph.onnx", options, providers=["CPUExecutionProvider"])
    return parity.run_session(session, inputs)
