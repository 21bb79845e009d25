"""A session: the engines of one model's variants, on shared buffers.

The full engine's output buffer *is* the shallow engine's input buffer. Every engine reads and fills the same static
buffers, bound once for each shape, so that compiled engines see the same addresses at every run.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from deepcache_trt.engines.engine import Engine
from deepcache_trt.engines.profile import ShapeProfile, nearest
from deepcache_trt.tensors import TensorSpec

if TYPE_CHECKING:
    import torch


class Session:
    """Runs variants by name. Whoever calls decides the order; a cached variant needs a full one at its sizes before."""

    def __init__(
        self, engines: Mapping[str, Engine], *, outputs: Sequence[str], profiles: Sequence[ShapeProfile]
    ) -> None:
        """Take over the engines of one model.

        Args:
            engines: by the names of their variants.
            outputs: what `run` returns; an engine's other outputs are taps.
            profiles: the shapes that every one of the engines takes.
        """
        self.engines = engines
        self.profiles = profiles
        self.seconds = 0.0  # spent in `Engine.run`; on a GPU that only enqueues
        self._outputs = outputs
        self._buffers: dict[str, torch.Tensor] = {}
        self._buffers_for: tuple[dict[str, int], torch.device] | None = None
        self._workspace: torch.Tensor | None = None
        self._taps_at: dict[str, int] | None = None  # the sizes of what the tap buffers hold

    def serves(self, sizes: Mapping[str, int]) -> bool:
        """Whether the engines take a call of these sizes."""
        return nearest(self.profiles, sizes) is not None

    def holds_taps(self, sizes: Mapping[str, int]) -> bool:
        """Whether the tap buffers hold the output of a full run at these sizes."""
        return self._taps_at == sizes

    def forget_taps(self) -> None:
        """Make the next run a full one: nothing of one generation may reach another."""
        self._taps_at = None

    def run(
        self, variant: str, tensors: Mapping[str, "torch.Tensor"], sizes: Mapping[str, int]
    ) -> dict[str, "torch.Tensor"]:
        """Run one variant.

        Args:
            variant: the name of an engine.
            tensors: the inputs by name; those that the variant does not read are left alone.
            sizes: the size of each dynamic axis.

        Returns:
            The outputs, in tensors that are the caller's to keep: multi-step samplers hold on to several.
        """
        engine = self.engines[variant]
        device = next(iter(tensors.values())).device
        with on_device(device):
            self._prepare(sizes, device)
            for name in engine.inputs:
                assert name in tensors or self.holds_taps(sizes), "a cached step before a full one"
                if name in tensors:
                    self._buffers[name].copy_(tensors[name])
            gives_taps = any(name not in self._outputs for name in engine.outputs)
            if gives_taps:
                self.forget_taps()  # a run that fails may have written half of them
            engine.run()
        if gives_taps:
            self._taps_at = dict(sizes)
        return {name: self._buffers[name].clone() for name in engine.outputs if name in self._outputs}

    def feed(self, latents: "torch.Tensor", timestep: "torch.Tensor", *, copies: int) -> None:
        """Replace latents and timestep of the call that the buffers hold; the conditioning stays.

        Args:
            latents: [B, C, …]; where the model takes further channels, such as a mask, those stay too.
            timestep: a scalar.
            copies: how often the batch repeats the latents.
        """
        self.latents_like(latents).unflatten(0, (copies, -1)).copy_(latents)
        self._buffers["timestep"].copy_(timestep)

    def latents_like(self, latents: "torch.Tensor") -> "torch.Tensor":
        """The part of the model's input that holds latents [B, C, …], as they were fed: [copies · B, C, …]."""
        axis = latents.ndim - 3  # of the channels: 1 of an image, 2 of a video
        return self._buffers["sample"].narrow(axis, 0, latents.shape[axis])

    def enqueue(self, variant: str) -> "torch.Tensor":
        """Run a variant on what the buffers hold; its prediction is overwritten by the next run."""
        engine = self.engines[variant]
        with on_device(self._buffers["sample"].device):
            self._time(engine)
        return self._buffers[self._outputs[0]]

    def close(self) -> None:
        """Close every engine and let go of the buffers."""
        for engine in self.engines.values():
            engine.close()
        self._buffers.clear()
        self._buffers_for = self._workspace = self._taps_at = None

    def _time(self, engine: Engine) -> None:
        started = time.perf_counter()
        engine.run()
        self.seconds += time.perf_counter() - started

    def _prepare(self, sizes: Mapping[str, int], device: "torch.device") -> None:
        """Bind every engine to buffers of these sizes, and to one workspace: they run one after the other."""
        import torch

        if self._buffers_for == (sizes, device):
            return
        self._taps_at = self._buffers_for = None  # an engine may refuse these sizes after another was bound to them
        self._buffers = {}
        for engine in self.engines.values():
            for name, spec in (engine.inputs | engine.outputs).items():
                if name not in self._buffers:
                    self._buffers[name] = _buffer(spec, sizes, device)
                engine.bind(name, self._buffers[name])
        if self._workspace is None:
            needed = max(engine.workspace_bytes for engine in self.engines.values())
            self._workspace = torch.empty(needed, dtype=torch.uint8, device=device)
            for engine in self.engines.values():
                if engine.workspace_bytes:
                    engine.use_workspace(self._workspace)
        self._buffers_for = (dict(sizes), device)


def on_device(device: "torch.device") -> AbstractContextManager[object]:
    """Make a GPU the current one, to which engines are bound; a pipeline may be on another than torch's first."""
    import torch

    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _buffer(spec: TensorSpec, sizes: Mapping[str, int], device: "torch.device") -> "torch.Tensor":
    import torch

    return torch.empty(spec.resolve(sizes), dtype=getattr(torch, spec.dtype), device=device)
