"""A cached variant in eager PyTorch: what a supplied tap makes superfluous is not computed, no kernel is compiled.

Eager PyTorch computes whatever `forward` says. So the variant is traced, and what nothing depends on is dropped: the
layers that are left run as they did.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deepcache_trt.engines.backend import TensorFunction
from deepcache_trt.errors import BackendError, first_line
from deepcache_trt.tracing import traced_alone

if TYPE_CHECKING:
    import torch

# Traces of an engine that are kept; each is a list of operations, on the weights that all of them share.
_SHAPES_KEPT = 32


class Pruned:
    """A function of named tensors without the operations that nothing depends on, each as eager PyTorch has it.

    It is traced on fake tensors for each shape that comes, which takes a second or two: what torch's compiler guards,
    and the sizes that it makes symbols of, would take it a minute. Modules and weights are those of the first trace.
    """

    def __init__(self, function: TensorFunction) -> None:
        self._function = function
        self._traced: OrderedDict[tuple[torch.Size, ...], Callable[..., Sequence[torch.Tensor]]] = OrderedDict()
        self._outputs: tuple[str, ...] = ()

    def __call__(self, tensors: Mapping[str, "torch.Tensor"]) -> Mapping[str, "torch.Tensor"]:
        """Call what is traced for these shapes, or trace for them.

        Raises:
            BackendError: the function asks its tensors for their values.
        """
        shapes = tuple(tensor.shape for tensor in tensors.values())
        if shapes not in self._traced:
            try:
                self._traced[shapes] = self._trace(tensors)
            except Exception as error:  # whatever a model does that cannot be done on fake tensors
                raise BackendError(f"torch cannot trace it: {first_line(error)}") from error
            if len(self._traced) > _SHAPES_KEPT:
                self._traced.popitem(last=False)
        self._traced.move_to_end(shapes)
        results = self._traced[shapes](*tensors.values())
        return dict(zip(self._outputs, results, strict=True))

    def _trace(self, tensors: Mapping[str, "torch.Tensor"]) -> "torch.fx.GraphModule":
        from torch.fx.experimental.proxy_tensor import make_fx

        def positional(*given: "torch.Tensor") -> list["torch.Tensor"]:
            results = self._function(dict(zip(tensors, given, strict=True)))
            self._outputs = tuple(results)
            return list(results.values())

        with traced_alone():
            # Before dispatch, operations are those that the model calls, not what they are made of.
            trace = make_fx(positional, tracing_mode="fake", pre_dispatch=True, _allow_non_fake_inputs=True)
            graph = trace(*tensors.values())
        graph.graph.eliminate_dead_code(_must_stay)
        graph.recompile()
        return graph


def _must_stay(node: Any) -> bool:
    """Whether an operation may do more than give a result: only those that write to a tensor do, dropout does not."""
    schema = getattr(node.target, "_schema", None)
    return node.op in ("placeholder", "output") or (schema is not None and schema.is_mutable)
