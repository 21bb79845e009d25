"""The execution contexts of one engine plan: one for each bound output and profile, each told nothing twice."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deepcache_trt.engines.tensorrt import versions
from deepcache_trt.errors import BackendError

if TYPE_CHECKING:
    import torch


@dataclass
class Context:
    """An execution context for one profile and one output, and what it has been told."""

    trt: Any
    context: Any
    profile: int
    memory: int = 0
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    addresses: dict[str, int] = field(default_factory=dict)
    # int32 copies for TensorRT 8.6, which has no int64. They are kept here because a CUDA graph that was recorded with
    # this context goes on reading them when another context has run.
    narrowed: dict[str, "torch.Tensor"] = field(default_factory=dict)
    capturable: bool | None = None  # whether a CUDA graph can hold it; None: not asked since its shapes changed

    def use_memory(self, memory: "torch.Tensor") -> None:
        """Use `memory` as scratch."""
        if self.memory != memory.data_ptr():
            versions.give_memory(self.context, memory.data_ptr(), memory.nbytes)
            self.memory = memory.data_ptr()

    def use_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Take the input `name` in this shape; raises BackendError where TensorRT refuses."""
        if self.shapes.get(name) != shape:
            _must(self.trt, self.context.set_input_shape, name, shape)
            self.shapes[name] = shape
            self.capturable = None

    def use_tensor(self, name: str, tensor: "torch.Tensor") -> None:
        """Read or fill `tensor`; raises BackendError where TensorRT refuses."""
        if self.addresses.get(name) != tensor.data_ptr():
            _must(self.trt, self.context.set_tensor_address, name, tensor.data_ptr())
            self.addresses[name] = tensor.data_ptr()

    def narrow(self, name: str, tensor: "torch.Tensor") -> "torch.Tensor":
        """The int32 copy of a tensor that TensorRT cannot take as int64."""
        narrow = self.narrowed.get(name)
        if narrow is None or narrow.shape != tensor.shape:
            narrow = self.narrowed[name] = tensor.int()
        return narrow


@dataclass(eq=False)
class _OfOutput:
    output: Callable[[], "torch.Tensor | None"]  # a weak reference
    address: int
    by_profile: dict[int, Context] = field(default_factory=dict)


class Contexts:
    """Every context of an engine, by the tensor that is bound to its first output and by profile.

    A context goes after its output has died, but only when `of` is called. The callback of a weak reference runs
    wherever Python's garbage collector happens to; in the middle of a capture it would free what a context holds on the
    GPU, which makes the CUDA graph void.
    """

    def __init__(self) -> None:
        self._kept: list[_OfOutput] = []

    def of(self, output: "torch.Tensor", wait: Callable[[], None]) -> dict[int, Context]:
        """Those of a living output, by profile; what is put there is kept. The dead are let go.

        Args:
            output: takes over the contexts of one that died at the same address.
            wait: called before contexts are destroyed, as the GPU may still be at work for them.
        """
        from torch.utils.weak import TensorWeakRef

        dead = [each for each in self._kept if each.output() is None]
        self._kept = [each for each in self._kept if each not in dead]
        found = next((each for each in self._kept if each.output() is output), None)
        if found is None:
            heir_to = next((each for each in dead if each.address == output.data_ptr()), None)
            dead = [each for each in dead if each is not heir_to]
            found = _OfOutput(TensorWeakRef(output), output.data_ptr(), heir_to.by_profile if heir_to else {})
            self._kept.append(found)
        if dead:
            wait()
        return found.by_profile

    def clear(self) -> None:
        """Let go of all of them."""
        self._kept.clear()


def new_context(trt: Any, engine: Any, config: Any | None, profile: int, stream: int) -> Context:
    """A context for `profile`, without memory of its own.

    Args:
        trt: the module.
        engine: an `ICudaEngine`.
        config: as `versions.runtime_config` gives it.
        profile: its number.
        stream: the handle of the CUDA stream on which the context is to run.

    Raises:
        BackendError: TensorRT cannot.
    """
    with versions.errors_of(trt) as errors:
        context = versions.create_context(trt, engine, config)
    if context is None:
        raise BackendError(f"TensorRT cannot set up profile {profile}: {versions.reason(errors)}")
    _must(trt, context.set_optimization_profile_async, profile, stream)
    return Context(trt, context, profile)


def _must(trt: Any, call: Any, *args: Any) -> None:
    """Make a call that returns False where it fails."""
    with versions.errors_of(trt) as errors:
        done = call(*args)
    if not done:
        raise BackendError(f"TensorRT refused {call.__name__}{args}: {versions.reason(errors)}")
