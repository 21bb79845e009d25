"""The shapes of a model's taps, from its `forward` on fake tensors of symbolic sizes: no graph is made for them."""

import re
from collections.abc import Mapping

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from deepcache_trt.models.architecture import Architecture
from deepcache_trt.models.taps import tapped
from deepcache_trt.models.traceable import make_traceable
from deepcache_trt.tensors import Dim, TensorSpec


def tap_specs(fake: torch.nn.Module, architecture: Architecture) -> dict[str, TensorSpec]:
    """Every tap by name, its shape in the axes of the model's inputs.

    Args:
        fake: the model on fake tensors, of `models.fresh.fake_model` or `models.copies.fake_copy`, for this call only.
        architecture: of the model.
    """
    make_traceable(fake)
    mode: FakeTensorMode = next(fake.parameters()).fake_mode  # type: ignore[attr-defined]  # fake ones have it
    mode.shape_env, mode.static_shapes = ShapeEnv(), False
    downsampling = architecture.downsampling
    # Sizes that differ from each other, from 1, and from those of any other axis.
    sizes = {"batch": 2, "sequence": 11, "height": 4 * downsampling, "width": 6 * downsampling}
    tensors: dict[str, torch.Tensor] = {}
    axes: dict[str, str] = {}
    for spec in architecture.inputs:
        example = torch.zeros(spec.resolve(sizes), dtype=getattr(torch, spec.dtype))
        symbolic = [DimDynamic.DUCK if isinstance(dim, str) else DimDynamic.STATIC for dim in spec.shape]
        tensors[spec.name] = mode.from_tensor(example, symbolic_context=StatelessSymbolicContext(symbolic))
        sized = zip(spec.shape, tensors[spec.name].shape, strict=True)
        axes |= {str(size): dim for dim, size in sized if isinstance(dim, str)}
    # Without torch's Python kernels some operations ask a symbolic size for its value.
    with mode, torch.no_grad(), enable_python_dispatcher(), tapped(fake, architecture.taps, consumed={}) as emitted:
        architecture.call(fake, tensors)
    return {
        name: TensorSpec(
            name=name,
            dtype=str(tensor.dtype).removeprefix("torch."),
            shape=tuple(_in_axes(size, axes) for size in tensor.shape),
        )
        for name, tensor in emitted.items()
    }


def _in_axes(size: "int | torch.SymInt", axes: Mapping[str, str]) -> Dim:
    """A size as a number or as an expression over the axes."""
    if isinstance(size, int):
        return size
    text = str(size)
    if text in axes:
        return axes[text]
    return re.sub(r"[A-Za-z_]\w*", lambda name: f"({axes[name[0]]})" if name[0] in axes else name[0], text)
