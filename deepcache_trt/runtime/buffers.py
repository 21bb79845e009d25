"""The static tensors of one shape, which every engine of a session reads and fills."""

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deepcache_trt.engines.engine import Engine
from deepcache_trt.progress import Progress
from deepcache_trt.runtime.cuda_graph import CudaGraphs
from deepcache_trt.runtime.decision import Decider, Rule
from deepcache_trt.runtime.forecast import Forecast
from deepcache_trt.runtime.segments.arena import HandsOn, arena_of

if TYPE_CHECKING:
    import torch


class Buffers:
    """The tensors, by name, and what works on their addresses."""

    def __init__(
        self, engines: Sequence[Engine], kept: Collection[str], sizes: Mapping[str, int], device: "torch.device"
    ) -> None:
        """Allocate them.

        Args:
            engines: whose inputs and outputs they are, in the order in which they run.
            kept: what is held from call to call; what engines only hand to each other shares memory.
            sizes: of each dynamic axis.
            device: where.
        """
        import torch

        specs = {name: spec for engine in engines for name, spec in (engine.inputs | engine.outputs).items()}
        shapes = {name: spec.resolve(sizes) for name, spec in specs.items()}
        dtypes: dict[str, torch.dtype] = {name: getattr(torch, spec.dtype) for name, spec in specs.items()}
        nbytes = {name: math.prod(shape) * dtypes[name].itemsize for name, shape in shapes.items()}
        pieces = [HandsOn(inputs=tuple(engine.inputs), outputs=tuple(engine.outputs)) for engine in engines]
        self.arena = arena_of(pieces, nbytes, held=kept)
        shared = torch.zeros(self.arena.size, dtype=torch.uint8, device=device)
        self.tensors = {
            name: shared.narrow(0, self.arena.offsets[name], nbytes[name]).view(dtypes[name]).view(shape)
            if name in self.arena.offsets
            else torch.zeros(shape, dtype=dtypes[name], device=device)
            for name, shape in shapes.items()
        }
        self.graphs = CudaGraphs(device) if device.type == "cuda" else None
        self._compiled: set[str] = set()  # the engines that have compiled what they compile for a shape
        self.forecasts: dict[str, Forecast] = {}  # by the forecaster, made for the first generation that wants it
        self.deciders: dict[Rule, Decider] = {}
        self.units: dict[Hashable, Any] = {}  # see `Session.units`
        self.loops: dict[Hashable, Any] = {}  # what the loop keeps beside the engines' tensors: its `LoopState`s

    def decider(self, rule: Rule, prediction: "torch.Tensor") -> Decider:
        """That which follows a rule, the same each time; `prediction` is one of the tensors."""
        if rule not in self.deciders:
            self.deciders[rule] = Decider(rule, self.tensors["sample"], prediction)
        return self.deciders[rule]

    def compile(self, engines: Mapping[str, Engine], progress: Progress) -> None:
        """Let engines do now, on whatever the tensors hold, what they would do in the middle of an image."""
        for name, engine in engines.items():
            if engine.compiles_at_first_run and name not in self._compiled:
                with progress(f"compiling the {name} engine for this shape"):
                    engine.run()
                self._compiled.add(name)

    def forget(self) -> None:
        """Nothing of one generation may reach another."""
        for decider in self.deciders.values():
            decider.forget()
        for forecast in self.forecasts.values():
            forecast.forget()

    def close(self) -> None:
        """Destroy what was recorded."""
        if self.graphs is not None:
            self.graphs.close()
