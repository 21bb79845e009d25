"""Tensors for engines of small graphs, and what ONNX Runtime computes of them."""

from collections.abc import Mapping
from pathlib import Path

import torch

from deepcache_trt.engines.engine import Engine
from deepcache_trt.engines.onnxruntime.engine import OnnxRuntimeEngine
from tests.engines.graphs import Net


def tensors_for(
    net: Net, batch: int, height: int, width: int, *, seed: int = 0, device: str = "cpu"
) -> dict[str, torch.Tensor]:
    """What an engine of `net` reads and writes; the output is nan."""
    generator = torch.Generator().manual_seed(seed)
    dtype = getattr(torch, net.inputs["sample"].dtype)
    tensors = {
        "sample": torch.randn(batch, 8, height, width, generator=generator).to(dtype),
        "timestep": torch.tensor([seed]),
        "out": torch.full((batch, 8, height, width), torch.nan, dtype=dtype),
    }
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def bind_all(engine: Engine, tensors: Mapping[str, torch.Tensor]) -> None:
    """Bind the tensors of the engine's own names."""
    for name in (*engine.inputs, *engine.outputs):
        engine.bind(name, tensors[name])


def by_onnxruntime(path: Path, tensors: Mapping[str, torch.Tensor], output: str) -> torch.Tensor:
    """What ONNX Runtime computes of a graph's inputs on the CPU, for its one output."""
    engine = OnnxRuntimeEngine(path)
    copies = {name: tensor.cpu() for name, tensor in tensors.items()}
    copies[output] = torch.empty_like(copies[output])
    bind_all(engine, copies)
    engine.run()
    engine.close()
    return copies[output]
