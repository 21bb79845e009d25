"""A variant that torch's compiler makes kernels for."""

from collections.abc import Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any

from deepcache_trt.engines.backend import TensorFunction
from deepcache_trt.errors import BackendError, of_compiler

if TYPE_CHECKING:
    import torch

_TUNING = "max-autotune-no-cudagraphs"


class Compiled:
    """A function of named tensors, compiled twice at most: for the first shapes that come, and for all the others.

    torch's own rule makes one axis dynamic at a time, and each compilation of a U-Net takes minutes.
    """

    def __init__(self, function: TensorFunction, *, tunes: bool) -> None:
        self._for_first = _compile(function, dynamic=False, tunes=tunes)
        self._for_others = _compile(function, dynamic=True, tunes=tunes)
        self._first: list[torch.Size] | None = None
        self._met: set[tuple[torch.Size, ...]] = set()

    def __call__(self, tensors: Mapping[str, "torch.Tensor"]) -> Mapping[str, "torch.Tensor"]:
        """Call what is compiled for these shapes, or compile for them.

        Raises:
            BackendError: torch cannot compile the function on this machine.
        """
        import torch

        shapes = [tensor.shape for tensor in tensors.values()]
        if self._first is None:
            self._first = shapes
        compiled = self._for_first if shapes == self._first else self._for_others
        results: Mapping[str, torch.Tensor]
        try:
            if tuple(shapes) in self._met:
                return compiled(tensors)  # type: ignore[no-any-return]
            # Else two axes that are of one size when it compiles, a square's, are one axis from then on.
            with torch.fx.experimental._config.patch(use_duck_shape=False):  # type: ignore[attr-defined]
                results = compiled(tensors)
        except (torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.FailOnRecompileLimitHit) as error:
            raise BackendError(f"torch.compile failed: {of_compiler(error)}") from error
        self._met.add(tuple(shapes))
        return results


def _compile(function: TensorFunction, *, dynamic: bool, tunes: bool) -> Any:
    import torch

    def call(tensors: Mapping[str, "torch.Tensor"]) -> Mapping[str, "torch.Tensor"]:
        return function(tensors)

    # torch keeps what it compiled, and counts it up to a limit, by code object: each engine gets one of its own.
    own = FunctionType(call.__code__.replace(), call.__globals__, closure=call.__closure__)
    mode = _TUNING if tunes else None
    return torch.compile(own, fullgraph=True, dynamic=dynamic, mode=mode)
