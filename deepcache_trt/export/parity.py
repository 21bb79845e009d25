"""Does the graph compute what the model computes? Asked once after every export, at a shape the tracer never saw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from deepcache_trt.errors import ParityError
from deepcache_trt.export import weights
from deepcache_trt.export.cut import cut
from deepcache_trt.export.weights import save_bound
from deepcache_trt.models.architecture import Architecture, Tokens
from deepcache_trt.models.processors import telling_batch
from deepcache_trt.models.taps import Variant, tapped
from deepcache_trt.tensors import TensorSpec

# ‖graph − model‖ / ‖model‖, by the dtype of the weights.
TOLERANCE = {"float32": 1e-4, "float16": 2e-2}


@dataclass(frozen=True, kw_only=True)
class Parity:
    """What a check found: the relative error of each output against torch, and the cut's largest difference."""

    sizes: dict[str, int]
    relative_error: dict[str, float]
    cut_difference: float


def unseen_sizes(architecture: Architecture) -> dict[str, int]:
    """Axis sizes that differ from those of the trace, down to a batch of one and a bottom level of one row."""
    multiple, downsampling = max(architecture.size_multiple, 1), architecture.downsampling
    height, width = max(multiple, downsampling - multiple), max(3 * multiple, 3 * downsampling - multiple)
    return {"batch": 1, "sequence": 7, "height": height, "width": width}


def example_inputs(architecture: Architecture, sizes: Mapping[str, int], *, seed: int = 0) -> dict[str, torch.Tensor]:
    """Seeded inputs: unit normal tensors, a timestep in the middle, small labels, texts of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    if architecture.tokens is not None:
        (ids,) = architecture.inputs
        return {ids.name: _texts(ids.resolve(sizes), architecture.tokens, generator)}
    return {spec.name: _example(spec, sizes, generator) for spec in architecture.inputs}


def _texts(shape: tuple[int, ...], tokens: Tokens, generator: torch.Generator) -> torch.Tensor:
    """Random words, closed and then filled up with the end token, as CLIP's tokenizer does."""
    batch, length = shape
    words = torch.randint(0, tokens.vocabulary, shape, generator=generator)
    ends = torch.randint(1, length, (batch, 1), generator=generator)
    return torch.where(torch.arange(length) < ends, words, tokens.end)


def _example(spec: TensorSpec, sizes: Mapping[str, int], generator: torch.Generator) -> torch.Tensor:
    shape, dtype = spec.resolve(sizes), getattr(torch, spec.dtype)
    if spec.name == "timestep":
        return torch.full(shape, 481, dtype=dtype)
    if spec.dtype == "int64":
        return torch.randint(0, 4, shape, generator=generator)
    return torch.randn(shape, generator=generator).to(dtype)


@torch.no_grad()
def run_model(
    model: torch.nn.Module,
    architecture: Architecture,
    variant: Variant,
    tensors: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """The reference: the model's own forward, with the variant's taps supplied and recorded by hooks."""
    consumed = {name: tensors[name] for name in variant.consumes}
    with tapped(model, architecture.taps, consumed=consumed) as emitted:
        outputs = architecture.call(model, tensors)
    kept = outputs if variant.outputs is None else {name: outputs[name] for name in variant.outputs}
    return {**kept, **{name: emitted[name] for name in variant.emits}}


def check_model(
    expected: Mapping[str, torch.Tensor], path: Path, tensors: Mapping[str, torch.Tensor], *, dtype: str
) -> dict[str, float]:
    """Compare the graph at `path` on ONNX Runtime with what the model gave for the same inputs.

    Raises:
        ParityError: an output that is not finite or too far off, with the figures.
    """
    actual = _run_graph(path, {name: _numpy(tensor) for name, tensor in tensors.items()})
    errors = {}
    for name, reference in expected.items():
        wanted, got = _numpy(reference.float()), actual[name].astype(np.float32)
        errors[name] = float(np.linalg.norm(got - wanted) / max(float(np.linalg.norm(wanted)), 1e-20))
        if not errors[name] <= TOLERANCE[dtype]:  # also catches NaN
            raise ParityError(
                f"{path.name}: {name} differs from the model by {errors[name]:.2g} of its norm, "
                f"the limit for {dtype} is {TOLERANCE[dtype]:g}; please report this architecture"
            )
    return errors


def check_cut(
    full: Path, shallow: Path, variant: Variant, tensors: Mapping[str, torch.Tensor], *, rounding: float = 0.0
) -> float:
    """`shallow(x, taps from full(x))` must equal `full(x)` bit for bit, or but for rounding.

    Args:
        full: a graph.
        shallow: a cut of it.
        variant: of `shallow`.
        tensors: inputs of `full`.
        rounding: the largest difference, as a share of the largest value, that is none.

    Returns:
        The largest absolute difference.

    Raises:
        ParityError: they differ.
    """
    arrays = {name: _numpy(tensor) for name, tensor in tensors.items()}
    whole = _run_graph(full, arrays)
    cached = _run_graph(shallow, {**arrays, **{name: whole[name] for name in variant.consumes}})
    differences = {name: float(np.abs(whole[name] - output).max()) for name, output in cached.items()}
    for name, difference in differences.items():
        if not difference <= rounding * float(np.abs(whole[name]).max()):  # also catches NaN
            raise ParityError(
                f"{name} of {shallow.name} differs from {full.name} by {difference:.2g} where they must be equal"
            )
    return max(differences.values())


def check_graph(
    graph: onnx.ModelProto,
    files: Sequence[Path],
    model: torch.nn.Module,
    architecture: Architecture,
    *,
    dtype: str,
    folder: Path,
) -> Parity:
    """Compare a new graph with the model, output by output, and its cuts at the first and the last tap, if it has any.

    Args:
        graph: the full graph, unbound.
        files: the weights of `model` as safetensors.
        model: on any device.
        architecture: of `model`.
        dtype: of `model`.
        folder: an empty folder to work in, on the file system of `files`.
    """
    stored = weights.locate(weights.link(files, folder))
    device = next(model.parameters()).device
    sizes = unseen_sizes(architecture) | {"batch": telling_batch(model)}
    tensors = example_inputs(architecture, sizes)
    taps = architecture.taps

    def save(variant: Variant) -> Path:
        path = folder / f"{variant.name}.onnx"
        save_bound(cut(graph, variant), stored, path)
        return path

    whole = Variant(name="whole", emits=tuple(tap.name for tap in taps))
    expected = run_model(model, architecture, whole, {name: tensor.to(device) for name, tensor in tensors.items()})
    errors = check_model(expected, save(whole), tensors, dtype=dtype)
    difference = 0.0
    for tap in dict.fromkeys((*taps[:1], *taps[-1:])):
        full, shallow = Variant(name="full", emits=(tap.name,)), Variant(name="shallow", consumes=(tap.name,))
        rounding = TOLERANCE[dtype] if tap.is_merged and dtype == "float16" else 0.0
        difference = max(difference, check_cut(save(full), save(shallow), shallow, tensors, rounding=rounding))
    return Parity(sizes=sizes, relative_error=errors, cut_difference=difference)


def _run_graph(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return run_session(open_session(path), arrays)


def open_session(path: Path) -> Any:
    """The graph at `path` on ONNX Runtime's CPU provider, so optimized that a cut of it computes the same."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Above this level a convolution may be given another memory layout, and so another order of summation, on either
    # side of the cut: right to rounding, but no longer a statement about the graphs.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run_session(session: Any, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every output by name, of those inputs that the graph reads."""
    wanted = {value.name for value in session.get_inputs()}
    names = [value.name for value in session.get_outputs()]
    outputs = session.run(names, {name: array for name, array in arrays.items() if name in wanted})
    return dict(zip(names, outputs, strict=True))


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
