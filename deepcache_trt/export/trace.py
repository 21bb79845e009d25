"""Trace a model into one ONNX graph whose outputs are the prediction and every tap.

The model is built from its *config* on fake tensors, or copied onto them where it has been changed since, so tracing
needs no weights and next to no memory. The weights stay initializers without data, named as in the state dict;
`export.weights` points them into a checkpoint.
"""

import functools
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import onnx_ir
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from deepcache_trt.errors import UnsupportedError
from deepcache_trt.export.tidy import tidy
from deepcache_trt.models.architecture import AS_CONFIGURED, Architecture, CallForm
from deepcache_trt.models.copies import fake_copy
from deepcache_trt.models.fresh import dtype_of, empty_model, fake_model
from deepcache_trt.models.registry import architecture_of
from deepcache_trt.models.taps import tapped
from deepcache_trt.models.traceable import make_traceable
from deepcache_trt.progress import Progress, logged
from deepcache_trt.tensors import TensorSpec, resolve_dim
from deepcache_trt.tracing import traced_alone

# Latents of 512 are images of 4096 pixels.
MAX_LATENT_SIZE = 512
MAX_SEQUENCE = 4096


def onnx_from_config(
    model_class: Any,
    config: Mapping[str, Any],
    *,
    dtype: str,
    form: CallForm = AS_CONFIGURED,
    architecture: Architecture | None = None,
    progress: Progress = logged,
) -> onnx_ir.Model:
    """Export the architecture once, with every tap as an output.

    Args:
        model_class: a class that `architecture_of` covers.
        config: as for `model_from_config`.
        dtype: of weights and activations, "float32", "float16" or "bfloat16".
        form: as for `architecture_of`, in whose place `architecture` can say what the graph is.
        progress: told about each stage.

    Returns:
        A model whose initializers named in the state dict carry no data.

    Raises:
        UnsupportedError: the class, a block type, or a constant without a source.
    """
    fake = fake_model(model_class, config, dtype)
    architecture = architecture or architecture_of(fake, dtype=dtype, form=form)
    return _onnx_of(fake, architecture, lambda: empty_model(model_class, config), progress)


def onnx_from_live(
    model: torch.nn.Module, *, form: CallForm = AS_CONFIGURED, progress: Progress = logged
) -> onnx_ir.Model:
    """As `onnx_from_config`, of the modules that a live model has, whatever its config would make."""
    fake = fake_copy(model)
    architecture = architecture_of(fake, dtype=dtype_of(model), form=form)
    return _onnx_of(fake, architecture, lambda: model, progress)


def _onnx_of(
    fake: torch.nn.Module, architecture: Architecture, real: Callable[[], torch.nn.Module], progress: Progress
) -> onnx_ir.Model:
    """The graph of a model on fake tensors; `real` gives one whose buffers have values, where these are needed."""
    make_traceable(fake)
    with traced_alone():
        graph = _traced(fake, architecture, progress)
    with progress("optimizing the graph"), _quiet():
        tidy(graph, architecture, _buffers_of(fake, real))
    return graph


class _Tapped(torch.nn.Module):
    """The model as a function of positional tensors that returns every output and every tap."""

    def __init__(self, model: torch.nn.Module, architecture: Architecture) -> None:
        super().__init__()
        self.model = model
        self.architecture = architecture

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        inputs = {spec.name: tensor for spec, tensor in zip(self.architecture.inputs, tensors, strict=True)}
        with tapped(self.model, self.architecture.taps, consumed={}) as emitted:
            outputs = self.architecture.call(self.model, inputs)
        if missing := [spec.name for spec in self.architecture.outputs if spec.name not in outputs]:
            raise UnsupportedError(
                f"{type(self.model).__name__} gives no {', '.join(missing)} as it is now; call pipe.disable_cache() "
                f"for this image, or keep this component off the engines with components=(…)"
            )
        given = [outputs[spec.name] for spec in self.architecture.outputs]
        return _told_apart(*given, *(emitted[tap.name] for tap in self.architecture.taps))


def _told_apart(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Each output of a graph has a name, so what is returned twice, where a layer was taken away, is copied."""
    different: list[torch.Tensor] = []
    for tensor in tensors:
        different.append(tensor.clone() if any(tensor is each for each in different) else tensor)
    return tuple(different)


def _exported_program(model: torch.nn.Module, architecture: Architecture) -> torch.export.ExportedProgram:
    multiple, downsampling = max(architecture.size_multiple, 1), architecture.downsampling
    dims = _traced_dims(architecture, multiple)
    # Sizes that differ from each other, so that the tracer cannot take two axes for one.
    sizes = {"batch": 2, "sequence": 11, "height": 4 * downsampling + multiple, "width": 6 * downsampling + multiple}
    mode = _fake_mode_of(model)
    with mode, torch.no_grad():
        args = tuple(_example(spec, sizes) for spec in architecture.inputs)
        shapes = tuple(
            {axis: dims[dim] for axis, dim in enumerate(spec.shape) if isinstance(dim, str)}
            for spec in architecture.inputs
        )
        # `*tensors` is one parameter, so its shapes are one tuple.
        return torch.export.export(_Tapped(model, architecture), args, dynamic_shapes=(shapes,), strict=False)


def _traced_dims(architecture: Architecture, multiple: int) -> dict[str, Any]:
    """Every symbolic dimension of the inputs, an axis or what is made of one, as torch.export knows them.

    torch takes whole multiples only, so axes are counted in units, of which height and width have `multiple` each:
    where that is 8, "height" is `8 * height_units`; and "8*height", as of a control image, is `64 * height_units`.
    What is no multiple, as the size of a residual, is a dimension of its own, which torch finds to be the right one.
    """
    # torch takes no size for one that can be 1, and the graph that it traces for larger ones holds for that too.
    least = architecture.downsampling // multiple + (architecture.downsampling > multiple)
    latent = (multiple, least, MAX_LATENT_SIZE // multiple)
    units = {"batch": (1, 1, architecture.max_batch), "sequence": (1, 1, MAX_SEQUENCE)}
    units |= {"height": latent, "width": latent}
    traced = {axis: torch.export.Dim(f"{axis}_units", min=low, max=high) for axis, (_, low, high) in units.items()}
    dims = {}
    symbolic = {dim for spec in architecture.inputs for dim in spec.shape if isinstance(dim, str)}
    for i, dim in enumerate(sorted(symbolic)):
        (axis,) = (axis for axis in units if axis in dim)
        unit, low, high = units[axis]
        at_unit, at_low, at_high = (resolve_dim(dim, {axis: unit * count}) for count in (1, low, high))
        if "//" in dim:
            dims[dim] = torch.export.Dim(f"{axis}_{i}", min=at_low, max=at_high)
        else:
            dims[dim] = traced[axis] if at_unit == 1 else at_unit * traced[axis]
    return dims


def _fake_mode_of(model: torch.nn.Module) -> FakeTensorMode:
    mode: FakeTensorMode = next(model.parameters()).fake_mode  # type: ignore[attr-defined]  # fake ones have it
    return mode


def _example(spec: TensorSpec, sizes: Mapping[str, int]) -> torch.Tensor:
    return torch.zeros(spec.resolve(sizes), dtype=getattr(torch, spec.dtype))


def _traced(fake: torch.nn.Module, architecture: Architecture, progress: Progress) -> onnx_ir.Model:
    with progress("tracing the model"), _quiet():
        exported = _exported_program(fake, architecture)
    with progress("translating to ONNX"), _quiet():
        # The exporter's own optimizer dies on fake constants.
        program = torch.onnx.export(exported, dynamo=True, optimize=False, verbose=False)
    assert program is not None
    graph = program.model
    for name in list(graph.graph.initializers):
        value = graph.graph.initializers[name]
        value.const_value = None if isinstance(value.const_value, torch.Tensor) else value.const_value
        if name.startswith("model."):
            value.const_value = None
            value.name = name.removeprefix("model.")
    return graph


def _buffers_of(fake: torch.nn.Module, real: Callable[[], torch.nn.Module]) -> Callable[[str], torch.Tensor | None]:
    """The values of non-persistent buffers, from a model that has them.

    What is returned raises UnsupportedError for a name that no checkpoint and no buffer has.
    """
    stored, dtype = set(fake.state_dict()), next(fake.parameters()).dtype

    @functools.cache
    def buffers() -> dict[str, torch.Tensor]:
        return dict(real().named_buffers())

    def buffer(name: str) -> torch.Tensor | None:
        if name in stored:
            return None
        if name not in buffers():
            raise UnsupportedError(
                f"the graph reads {name!r}, which is in no checkpoint and no buffer of {type(fake).__name__}"
            )
        value = buffers()[name].cpu()
        return value.to(dtype) if value.is_floating_point() else value

    return buffer


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporters say about packages and deprecations that are none of the user's business."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
