"""Engines of a small net by OpenVINO, checked against ONNX Runtime."""

from collections.abc import Mapping
from pathlib import Path

import torch

from deepcache_trt.engines.openvino.engine import OpenVinoEngine
from deepcache_trt.engines.profile import Range, ShapeProfile
from tests.engines.graphs import Net, square
from tests.engines.tensors import bind_all, by_onnxruntime


def exactly(**sizes: int) -> ShapeProfile:
    return ShapeProfile(**{axis: Range(min=size, opt=size, max=size) for axis, size in sizes.items()})


def opened(net: Net, *profiles: ShapeProfile, cache: Path | None = None) -> OpenVinoEngine:
    return OpenVinoEngine(
        net.path, inputs=net.inputs, outputs=net.outputs, profiles=profiles or [square(4, 8, 16)], cache=cache
    )


def check(engine: OpenVinoEngine, net: Net, tensors: Mapping[str, torch.Tensor]) -> None:
    address = tensors["out"].data_ptr()
    bind_all(engine, tensors)
    engine.run()
    assert tensors["out"].data_ptr() == address
    torch.testing.assert_close(tensors["out"], by_onnxruntime(net.path, tensors, "out"), rtol=1e-4, atol=1e-5)
