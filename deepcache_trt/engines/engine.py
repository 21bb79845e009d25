"""What every backend offers: a variant, compiled for a device and a shape profile."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from deepcache_trt.engines.profile import ShapeProfile, nearest
from deepcache_trt.errors import BackendError, ShapeError
from deepcache_trt.tensors import TensorSpec, axis_sizes

if TYPE_CHECKING:
    import torch


# For how many shapes at a time buffers are kept, and what was recorded on them.
SHAPES_KEPT = 8


class Engine(Protocol):
    """A compiled variant. Tensors are bound by name, then `run` reads the inputs and fills the outputs.

    A bound tensor belongs to the caller; the engine keeps a reference until another one is bound or it is closed.
    """

    capturable: bool  # whether `run`, after a first one at a shape, may be recorded into a CUDA graph from outside
    inputs: dict[str, TensorSpec]  # what `run` reads, by name
    outputs: dict[str, TensorSpec]  # what `run` fills, by name
    compiles_at_first_run: bool = False  # whether the first `run` at a shape takes long
    workspace_bytes: int = 0  # scratch memory that `use_workspace` must be given; 0 where the backend manages its own

    def bind(self, name: str, tensor: "torch.Tensor") -> None:
        """Use `tensor` for the input or output `name` from now on, without a copy."""
        ...

    def use_workspace(self, memory: "torch.Tensor") -> None:
        """Use `memory`, of at least `workspace_bytes`, as scratch. Engines that run in turn may share it."""
        raise AssertionError(f"{type(self).__name__} manages its own workspace")

    def run(self) -> None:
        """Enqueue one inference on the current stream; on a CPU it is done when this returns.

        The caller keeps the bound tensors alive and unchanged until the stream has passed it.
        """
        ...

    def refit(self, graph: Path) -> None:
        """Take the weights of `graph`, the engine's own graph bound to another weights file.

        Raises:
            BackendError: the engine cannot be refitted, or lacks some weight; it must be closed then.
        """
        raise BackendError(f"a {type(self).__name__} cannot be refitted; build another one for these weights")

    def close(self) -> None:
        """Let go of the compiled model and of every bound tensor."""
        ...


def check_binding(spec: TensorSpec, tensor: "torch.Tensor", device: str) -> None:
    """Raise ShapeError unless `tensor` can stand for `spec`: its dtype, rank, fixed sizes, layout and device."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype != spec.dtype:
        raise ShapeError(f"{spec.name} is {dtype}, the engine takes {spec.dtype}; cast it with .to(torch.{spec.dtype})")
    fits = len(tensor.shape) == len(spec.shape) and all(
        not isinstance(dim, int) or dim == size for dim, size in zip(spec.shape, tensor.shape, strict=True)
    )
    if not fits:
        raise ShapeError(f"{spec.name} has shape {list(tensor.shape)}, the engine takes {spec}")
    if tensor.device.type != device:
        raise ShapeError(
            f"{spec.name} is on {tensor.device}, the engine runs on {device}; move it with .to({device!r})"
        )
    if not tensor.is_contiguous():
        raise ShapeError(f"{spec.name} is not contiguous in memory; pass it through .contiguous()")


def profile_for(
    inputs: Mapping[str, TensorSpec],
    outputs: Mapping[str, TensorSpec],
    bound: Mapping[str, "torch.Tensor"],
    profiles: Sequence[ShapeProfile],
) -> int:
    """The profile that is nearest to the bound shapes, all of which have been checked against one another.

    Raises:
        ShapeError: two tensors that disagree about an axis, or a shape outside every profile.
    """
    shapes = {name: tuple(bound[name].shape) for name in (*inputs, *outputs)}
    sizes = axis_sizes(inputs, {name: shapes[name] for name in inputs})
    for name, spec in {**inputs, **outputs}.items():
        if shapes[name] != spec.resolve(sizes):
            raise ShapeError(
                f"{name} has shape {list(shapes[name])} where the other tensors ask for "
                f"{list(spec.resolve(sizes))}; bind tensors of one batch and size"
            )
    chosen = nearest(profiles, sizes)
    if chosen is None:
        offered = " or ".join(", ".join(f"{axis} {getattr(profile, axis)}" for axis in sizes) for profile in profiles)
        asked = ", ".join(f"{axis} {size}" for axis, size in sizes.items())
        raise ShapeError(f"{asked} is outside what the engine was built for: {offered}")
    return chosen
