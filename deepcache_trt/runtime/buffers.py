"""The static tensors of one shape, which every engine of a session reads and fills."""

from collections.abc import Callable, Collection, Hashable, Mapping
from typing import TYPE_CHECKING, Any

from deepcache_trt.engines.engine import Engine
from deepcache_trt.progress import Progress
from deepcache_trt.runtime.cuda_graph import CudaGraphs
from deepcache_trt.runtime.decision import Decider, Rule
from deepcache_trt.runtime.forecast import Forecast
from deepcache_trt.tensors import TensorSpec

if TYPE_CHECKING:
    import torch


class Buffers:
    """The tensors, by name, and what works on their addresses."""

    def __init__(self, engines: Collection[Engine], sizes: Mapping[str, int], device: "torch.device") -> None:
        """Allocate them.

        Args:
            engines: whose inputs and outputs they are.
            sizes: of each dynamic axis.
            device: where.
        """
        specs = {name: spec for engine in engines for name, spec in (engine.inputs | engine.outputs).items()}
        self.tensors = {name: _zeros(spec, sizes, device) for name, spec in specs.items()}
        self.graphs = CudaGraphs(device) if device.type == "cuda" else None
        self._compiled: set[str] = set()  # the variants whose engines have compiled what they compile for a shape
        self.forecast: Forecast | None = None  # it is made for the first generation that wants one
        self.deciders: dict[Rule, Decider] = {}
        self.steps: dict[Hashable, Callable[[], None]] = {}  # see `Session.step`
        self.loops: dict[Hashable, Any] = {}  # what the loop keeps beside the engines' tensors: its `LoopState`s

    def decider(self, rule: Rule, prediction: "torch.Tensor") -> Decider:
        """That which follows a rule, the same each time; `prediction` is one of the tensors."""
        if rule not in self.deciders:
            self.deciders[rule] = Decider(rule, self.tensors["sample"], prediction)
        return self.deciders[rule]

    def compile(self, engines: Mapping[str, Engine], variants: Collection[str], progress: Progress) -> None:
        """Let engines do now, on whatever the tensors hold, what they would do in the middle of an image."""
        for variant in dict.fromkeys(variants):
            engine = engines.get(variant)
            if engine is not None and engine.compiles_at_first_run and variant not in self._compiled:
                with progress(f"compiling the {variant} variant for this shape"):
                    engine.run()
                self._compiled.add(variant)

    def forget(self) -> None:
        """Nothing of one generation may reach another."""
        for decider in self.deciders.values():
            decider.forget()
        if self.forecast is not None:
            self.forecast.forget()

    def close(self) -> None:
        """Destroy what was recorded."""
        if self.graphs is not None:
            self.graphs.close()


def _zeros(spec: TensorSpec, sizes: Mapping[str, int], device: "torch.device") -> "torch.Tensor":
    import torch

    return torch.zeros(spec.resolve(sizes), dtype=getattr(torch, spec.dtype), device=device)
