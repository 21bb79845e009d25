"""What every backend offers: a variant, compiled for a device and a shape profile."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from deepcache_trt.errors import ShapeError
from deepcache_trt.tensors import TensorSpec

if TYPE_CHECKING:
    import torch


class Engine(Protocol):
    """A compiled variant. Tensors are bound by name, then `run` reads the inputs and fills the outputs.

    A bound tensor belongs to the caller; the engine keeps a reference until another one is bound or it is closed.
    """

    capturable: bool  # whether `run` may be recorded into a CUDA graph from outside
    workspace_bytes: int  # scratch memory beside weights and bound tensors; 0 where the backend manages its own

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """What `run` reads, by name."""
        ...

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """What `run` fills, by name."""
        ...

    def bind(self, name: str, tensor: "torch.Tensor") -> None:
        """Use `tensor` for the input or output `name` from now on, without a copy."""
        ...

    def run(self) -> None:
        """Enqueue one inference on the current stream; on a CPU it is done when this returns."""
        ...

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
