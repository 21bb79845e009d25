"""Small graphs for the tests of compiled engines."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deepcache_trt.engines.profile import Range, ShapeProfile
from deepcache_trt.tensors import TensorSpec

ONNX_DTYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "int64": TensorProto.INT64}


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[TensorSpec],
    outputs: list[TensorSpec],
    weights: dict[str, np.ndarray] | None = None,
    *,
    opset: int = 18,
) -> Path:
    """Write a graph whose weights lie in a file beside it."""
    taken, given = (
        [helper.make_tensor_value_info(s.name, ONNX_DTYPES[s.dtype], s.shape) for s in specs]
        for specs in (inputs, outputs)
    )
    initializers = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(
        helper.make_graph(nodes, "graph", taken, given, initializers), opset_imports=opsets, ir_version=10
    )
    onnx.save(model, path, save_as_external_data=True, location=f"{path.stem}.weights", size_threshold=0)
    return path


def spec(name: str, dtype: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def by_name(*specs: TensorSpec) -> dict[str, TensorSpec]:
    return {s.name: s for s in specs}


class Net:
    """out = a few convolutions of sample, plus the timestep: `depth` layers of 8 channels at any batch and size."""

    def __init__(self, path: Path, *, dtype: str = "float32", depth: int = 2, seed: int = 0) -> None:
        image = ("batch", 8, "height", "width")
        self.inputs = by_name(spec("sample", dtype, *image), spec("timestep", "int64", 1))
        self.outputs = by_name(spec("out", dtype, *image))
        random = np.random.default_rng(seed)
        nodes = [
            helper.make_node("Cast", ["timestep"], ["time"], name="cast", to=ONNX_DTYPES[dtype]),
            helper.make_node("Add", ["sample", "time"], ["x0"], name="add"),
        ]
        weights = {}
        for i in range(depth):
            weights[f"w{i}"] = (random.standard_normal((8, 8, 3, 3)) / 9).astype(dtype)
            last = "out" if i == depth - 1 else f"x{i + 1}"
            nodes += [
                helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"c{i}"], name=f"conv{i}", pads=[1, 1, 1, 1]),
                helper.make_node("Sigmoid", [f"c{i}"], [last], name=f"sigmoid{i}"),
            ]
        self.path = save(path, nodes, [*self.inputs.values()], [*self.outputs.values()], weights)


def square(low: int, best: int, high: int) -> ShapeProfile:
    """Batches up to 4 of squares."""
    side = Range(min=low, opt=best, max=high)
    return ShapeProfile(batch=Range(min=1, opt=2, max=4), height=side, width=side)
