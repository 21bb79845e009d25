"""A session: the engines of one model's variants, on shared tap buffers.

The full engine's output buffer *is* the shallow engine's input buffer: allocated once per shape, never copied.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from deepcache_trt.engines.engine import Engine
from deepcache_trt.tensors import TensorSpec

if TYPE_CHECKING:
    import torch


class Session:
    """Runs variants by name. Whoever calls decides the order; a cached variant needs a full one at its sizes before."""

    def __init__(self, engines: Mapping[str, Engine], *, output: str) -> None:
        self.engines = engines
        self._output = output
        self._taps: dict[str, torch.Tensor] = {}
        self._sizes: dict[str, int] | None = None  # those of what the tap buffers hold

    def holds_taps(self, sizes: Mapping[str, int]) -> bool:
        """Whether the tap buffers hold the output of a full run at these sizes."""
        return self._sizes == sizes

    def forget_taps(self) -> None:
        """Make the next run a full one: nothing of one generation may reach another."""
        self._sizes = None

    def run(self, variant: str, tensors: Mapping[str, "torch.Tensor"], sizes: Mapping[str, int]) -> "torch.Tensor":
        """Run one variant.

        Args:
            variant: the name of an engine.
            tensors: the inputs by name; those that the variant does not read are left alone.
            sizes: the size of each dynamic axis.

        Returns:
            The prediction, in a tensor that is the caller's to keep: multi-step samplers hold on to several.
        """
        import torch

        engine = self.engines[variant]
        like = tensors["sample"]
        prediction = torch.empty(
            engine.outputs[self._output].resolve(sizes),
            dtype=getattr(torch, engine.outputs[self._output].dtype),
            device=like.device,
        )
        for name in engine.inputs:
            assert name in tensors or self.holds_taps(sizes), "a cached step before a full one"
            engine.bind(name, tensors[name] if name in tensors else self._taps[name])
        for name, spec in engine.outputs.items():
            engine.bind(name, prediction if name == self._output else self._tap_output(spec, sizes, like))
        engine.run()
        if len(engine.outputs) > 1:
            self._sizes = dict(sizes)
        return prediction

    def close(self) -> None:
        """Close every engine and let go of the buffers."""
        self._taps.clear()
        for engine in self.engines.values():
            engine.close()

    def _tap_output(self, spec: TensorSpec, sizes: Mapping[str, int], like: "torch.Tensor") -> "torch.Tensor":
        import torch

        shape = spec.resolve(sizes)
        buffer = self._taps.get(spec.name)
        if buffer is None or buffer.shape != shape or buffer.device != like.device:
            buffer = torch.empty(shape, dtype=getattr(torch, spec.dtype), device=like.device)
            self._taps[spec.name] = buffer
        return buffer
