"""An engine on TensorRT's double: how it is loaded, and the tensors it runs with."""

from pathlib import Path
from typing import Any

import torch

from deepcache_trt.engines.tensorrt.engine import TensorRTEngine
from tests.engines.graphs import by_name, spec, square

INPUTS = by_name(spec("sample", "float32", "batch", 4, "height", "width"), spec("timestep", "int64", 1))
OUTPUTS = by_name(spec("out", "float32", "batch", 4, "height", "width"))
SMALL, LARGE = square(8, 8, 8), square(16, 16, 32)
RUN = ("execute_async_v3", 77)


def aligned(*shape: int, dtype: torch.dtype = torch.float32, past: int = 0) -> torch.Tensor:
    """Zeros that start `past` elements after a multiple of 256 bytes, as torch's GPU memory does for 0."""
    size = torch.Size(shape).numel()
    memory = torch.zeros(size + 256, dtype=dtype)
    start = next(i for i in range(256) if (memory.data_ptr() + i * memory.itemsize) % 256 == 0)
    return memory[start + past : start + past + size].view(shape)


def load(plan: Path, **changes: Any) -> TensorRTEngine:
    arguments = {"inputs": INPUTS, "outputs": OUTPUTS, "profiles": [SMALL, LARGE], **changes}
    return TensorRTEngine(plan, backend="tensorrt-rtx", **arguments)


def bind(engine: TensorRTEngine, batch: int, side: int) -> dict[str, torch.Tensor]:
    tensors = {
        "sample": aligned(batch, 4, side, side),
        "timestep": aligned(1, dtype=torch.int64),
        "out": aligned(batch, 4, side, side),
    }
    for name, tensor in tensors.items():
        engine.bind(name, tensor)
    return tensors
