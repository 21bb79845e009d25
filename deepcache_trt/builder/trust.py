"""Does an engine compute what its graph says? Asked once after a build, on the device that it runs on.

Compilers have been seen to give zeros or NaN without an error. The reference is ONNX Runtime on the CPU.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from deepcache_trt.engines.engine import Engine
from deepcache_trt.engines.onnxruntime.engine import OnnxRuntimeEngine
from deepcache_trt.errors import DeepCacheError
from deepcache_trt.export.parity import example_inputs
from deepcache_trt.models.architecture import Architecture

# ‖engine − reference‖ / ‖reference‖, by the dtype of the weights.
TOLERANCE = {"float32": 1e-3, "float16": 3e-2, "bfloat16": 1e-1}

# What a CPU run takes beside the file of the weights: they are unpacked, in float32.
_MEMORY_PER_BYTE = 6


@dataclass(frozen=True, kw_only=True)
class Check:
    """What a comparison found.

    Attributes:
        usable: whether the engine may be used.
        reason: why not, with the figures; or what was not compared, and why.
        sizes: the axes that it ran at.
        relative_error: of each output; empty where there was no reference.
        tolerance: the largest error that was accepted.
    """

    usable: bool
    reason: str
    sizes: dict[str, int]
    relative_error: dict[str, float]
    tolerance: float


def check_engine(
    engine: Engine,
    graph: Path,
    architecture: Architecture,
    sizes: Mapping[str, int],
    *,
    dtype: str,
    device: str,
    tolerance: float | None = None,
) -> Check:
    """Run `engine` and ONNX Runtime on the same seeded inputs.

    Args:
        engine: of any backend, on `device`.
        graph: the engine's ONNX file with its weights beside it.
        architecture: which the graph was cut from.
        sizes: of every axis.
        dtype: of the weights.
        device: where the engine reads and fills its tensors.
        tolerance: the largest error that is accepted; None: that of the dtype.
    """
    inputs = _inputs(engine, architecture, sizes)
    outputs = _run(engine, {name: tensor.to(device) for name, tensor in inputs.items()}, sizes, device)
    tolerance = TOLERANCE[dtype] if tolerance is None else tolerance
    reason = _faults(outputs)
    errors: dict[str, float] = {}
    if not reason:
        reference, missing = _reference(graph, inputs, sizes, dtype)
        errors = {name: relative_error(outputs[name], expected) for name, expected in reference.items()}
        wrong = {name: error for name, error in errors.items() if not error <= tolerance}
        # Those of a ControlNet that nobody has trained are zeros, and right.
        zeros = [name for name, output in outputs.items() if not bool(output.any()) and (missing or name in wrong)]
        faults = [f"{name} is all zeros" for name in zeros]
        differing = [f"{name} differs by {error:.2g}" for name, error in wrong.items() if name not in zeros]
        if differing:
            faults.append(f"{', '.join(differing)} of the reference's norm, the limit for {dtype} is {tolerance:g}")
        reason = "; ".join(faults)
        if missing and not reason:
            return _check(True, f"finite, but not compared: {missing}", sizes, errors, tolerance)
    return _check(not reason, reason, sizes, errors, tolerance)


def _check(usable: bool, reason: str, sizes: Mapping[str, int], errors: dict[str, float], tolerance: float) -> Check:
    return Check(usable=usable, reason=reason, sizes=dict(sizes), relative_error=errors, tolerance=tolerance)


def _inputs(engine: Engine, architecture: Architecture, sizes: Mapping[str, int]) -> dict[str, torch.Tensor]:
    given = example_inputs(architecture, sizes)
    generator = torch.Generator().manual_seed(1)
    return {
        name: given[name]
        if name in given
        else torch.randn(spec.resolve(sizes), generator=generator).to(getattr(torch, spec.dtype))  # a consumed tap
        for name, spec in engine.inputs.items()
    }


def _run(
    engine: Engine, inputs: Mapping[str, torch.Tensor], sizes: Mapping[str, int], device: str
) -> dict[str, torch.Tensor]:
    outputs = {
        name: torch.full(spec.resolve(sizes), torch.nan, dtype=getattr(torch, spec.dtype), device=device)
        for name, spec in engine.outputs.items()
    }
    for name, tensor in (*inputs.items(), *outputs.items()):
        engine.bind(name, tensor)
    if engine.workspace_bytes:
        engine.use_workspace(torch.empty(engine.workspace_bytes, dtype=torch.uint8, device=device))
    engine.run()
    return {name: output.float().cpu() for name, output in outputs.items()}


def _faults(outputs: Mapping[str, torch.Tensor]) -> str:
    counts = {name: int((~output.isfinite()).sum()) for name, output in outputs.items()}
    faults = [
        f"{name} has {count} of {outputs[name].numel()} elements that are not finite"
        for name, count in counts.items()
        if count
    ]
    return "; ".join(faults)


def _reference(
    graph: Path, inputs: Mapping[str, torch.Tensor], sizes: Mapping[str, int], dtype: str
) -> tuple[dict[str, torch.Tensor], str]:
    """The outputs of ONNX Runtime's CPU provider, or none and why there are none."""
    if dtype == "bfloat16":
        return {}, "ONNX Runtime has no bfloat16 on the CPU"
    needed = _MEMORY_PER_BYTE * sum(file.stat().st_size for file in graph.parent.glob("*.safetensors"))
    available = psutil.virtual_memory().available
    if needed > available:
        return {}, f"the reference needs about {needed / 1e9:.0f} GB of memory, {available / 1e9:.0f} GB are free"
    try:
        reference = OnnxRuntimeEngine(graph)
    except DeepCacheError as error:
        return {}, str(error)
    try:
        return _run(reference, inputs, sizes, "cpu"), ""
    finally:
        reference.close()


def relative_error(output: torch.Tensor, reference: torch.Tensor) -> float:
    """‖output − reference‖ / ‖reference‖, wherever they are."""
    output, reference = output.float(), reference.float()
    return float((output - reference).norm() / reference.norm().clamp(min=1e-20))
