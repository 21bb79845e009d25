"""A session: the engines of one model's variants, on shared buffers.

The full engine's output buffer *is* the shallow engine's input buffer. Every engine reads and fills the same static
buffers, bound once for each shape, so that compiled engines see the same addresses at every run. A variant is one
engine, or the list of those of its segments.
"""

from collections import OrderedDict
from collections.abc import Collection, Hashable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from deepcache_trt.engines.engine import SHAPES_KEPT, Engine
from deepcache_trt.engines.profile import ShapeProfile, nearest
from deepcache_trt.progress import Progress, logged
from deepcache_trt.runtime.buffers import Buffers
from deepcache_trt.runtime.cuda_graph import Recorded
from deepcache_trt.runtime.decision import Decider, Decision, Rule
from deepcache_trt.runtime.device import on_device
from deepcache_trt.runtime.forecast import FORECASTERS, Forecast
from deepcache_trt.runtime.generation import Kept
from deepcache_trt.runtime.plan import SKIP
from deepcache_trt.runtime.run_log import RunLog
from deepcache_trt.runtime.segments.arena import HandsOn, reused
from deepcache_trt.runtime.switch import Step, Switch, Unit

if TYPE_CHECKING:
    import torch


class Session:
    """Runs variants by name. Whoever calls decides the order; a cached variant needs a full one at its sizes before."""

    def __init__(
        self,
        engines: Mapping[str, Engine],
        *,
        variants: Mapping[str, Sequence[str]] | None = None,
        outputs: Sequence[str],
        profiles: Sequence[ShapeProfile],
        progress: Progress = logged,
    ) -> None:
        """Take over the engines of one model.

        Args:
            engines: by name, in an order in which those of each variant can run.
            variants: the names of the engines that each one runs; None: each engine is a variant of its name.
            outputs: what `run` returns, as far as the variant gives it.
            profiles: the shapes that every one of the engines takes.
            progress: told where engines compile something for a shape.
        """
        self.engines = engines
        self.variants = {name: (name,) for name in engines} if variants is None else variants
        self._progress = progress
        self.profiles = profiles
        self.log = RunLog()
        self._outputs = outputs
        pieces = {name: HandsOn(inputs=[*each.inputs], outputs=[*each.outputs]) for name, each in engines.items()}
        given = {name for piece in pieces.values() for name in piece.outputs}
        self._reused = {name: reused([pieces[i] for i in run], given=given) for name, run in self.variants.items()}
        self._reused[SKIP] = set(outputs)
        self._kept = set(outputs).union(*self._reused.values())  # what is held from call to call; the rest is handed on
        self._shapes: OrderedDict[Hashable, Buffers] = OrderedDict()  # the last few, the newest last
        self._buffers_for: tuple[dict[str, int], torch.device] | None = None
        self._workspace: torch.Tensor | None = None
        self._device: torch.device | None = None  # the engines were last bound there
        self.generation = 0
        self._forecaster: str | None = None
        self._rule: Rule | None = None
        self.decisions: list[Decision] = []  # about the calls of this generation, where a rule decides
        self._wanted: Collection[str] = ()  # the variants of a generation that has not run yet
        self._held: set[str] = set()  # what this generation has computed of what is kept

    def serves(self, sizes: Mapping[str, int]) -> bool:
        """Whether the engines take a call of these sizes."""
        return nearest(self.profiles, sizes) is not None

    def holds(self, variant: str, sizes: Mapping[str, int]) -> bool:
        """Whether the buffers hold, for these sizes, everything that a variant takes from earlier calls."""
        is_for = self._buffers_for is not None and self._buffers_for[0] == sizes
        return is_for and self._reused[variant] <= self._held

    def begin(self, *, forecast: str | None = None, variants: Collection[str] = (), rule: Rule | None = None) -> int:
        """Start a generation: nothing of one may reach another, so the next run must be a full one.

        Args:
            forecast: how what a step reuses is extrapolated, one of `FORECASTERS`; None: it is not.
            variants: those that it will run; what their engines compile for a shape is compiled before its first step.
            rule: by which it is decided what runs, see `run`.

        Returns:
            The number of the generation; when `generation` is another, someone else has begun one.
        """
        self._forecaster, self._wanted, self._rule = forecast, variants, rule
        self.decisions = []
        self._forget()
        self.generation += 1
        return self.generation

    def lay_aside(self) -> Kept | None:
        """What this generation holds, for `take_up` after others; None: nothing, or a forecast or a rule has more."""
        if self._buffers_for is None or not self._held or self._forecaster or self._rule:
            return None
        sizes, device = self._buffers_for
        return Kept(sizes=sizes, device=device, tensors={name: self.buffers[name].clone() for name in self._held})

    def take_up(self, kept: Kept) -> int:
        """Go on with the generation that `kept` was laid aside of; returns its number from now on, see `begin`."""
        number = self.begin()
        with on_device(kept.device):
            self._prepare(kept.sizes, kept.device)
            for name, tensor in kept.tensors.items():
                self.buffers[name].copy_(tensor)
        self._held = {*kept.tensors}
        return number

    def run(
        self, variant: str | None, tensors: Mapping[str, "torch.Tensor"], sizes: Mapping[str, int]
    ) -> dict[str, "torch.Tensor"]:
        """Run one variant.

        Args:
            variant: its name, or `SKIP`; None: what the rule decides.
            tensors: the inputs by name; those that the variant does not read are left alone.
            sizes: the size of each dynamic axis.

        Returns:
            The variant's outputs, in tensors that are the caller's to keep: multi-step samplers hold on to several.
        """
        device = next(iter(tensors.values())).device
        with on_device(device):
            self._prepare(sizes, device)
            of = self.engines if variant is None else self._run_by(variant)
            for name in {name for each in of for name in self.engines[each].inputs} & tensors.keys():
                self.buffers[name].copy_(tensors[name])
            if variant is None:
                variant = self.decide()
            elif self.decider is not None:
                self.decisions.append(Decision(variant=variant, error=0.0, why="there is nothing to reuse"))
            assert self.holds(variant, sizes), "a cached step before what it reuses was computed"
            computed = self._computed(variant)
            self._held -= computed  # a run that fails may have written half of it
            self.call(variant)
        self._held |= computed
        given = [name for name in self._outputs if variant == SKIP or name in computed]
        return {name: self.buffers[name].clone() for name in given}

    @property
    def buffers(self) -> Mapping[str, "torch.Tensor"]:
        """The static tensors of the last shape, by name."""
        return self.shape.tensors

    @property
    def shape(self) -> Buffers:
        """What is kept for the last shape."""
        return next(reversed(self._shapes.values()))

    @property
    def prediction(self) -> "torch.Tensor":
        """The buffer that every step leaves its prediction in."""
        return self.buffers[self._outputs[0]]

    @property
    def forecast(self) -> Forecast | None:
        """The forecast of this generation, where it has one."""
        return None if self._forecaster is None else self.shape.forecasts.get(self._forecaster)

    @property
    def decider(self) -> Decider | None:
        """What decides about the calls of this generation; None where its plan does."""
        return None if self._rule is None else self.shape.decider(self._rule, self.prediction)

    def decide(self) -> str:
        """The variant for what lies in the buffers, by the rule; the decision is kept."""
        assert self.decider is not None
        self.execute([self.decider.decide])
        self.told(1)
        return self.decisions[-1].variant

    def told(self, count: int) -> None:
        """Keep the decisions about so many further calls, which the device has left."""
        assert self.decider is not None
        self.decisions += self.decider.decisions(count)

    def deciding(self) -> list[Step]:
        """What decides about one call and does it, without asking the host."""
        assert self.decider is not None
        branches = tuple(tuple(self.units(variant)) for variant in self.decider.rule.choices)
        switch = Switch(address=self.decider.choice.data_ptr(), branches=branches)
        return [self.decider.decide, *self._preparing, switch]

    def units(self, variant: str) -> list[Unit]:
        """What one call does, in order; the same functions each time for a shape, as far as they do the same."""
        units, forecast, decider = self.shape.units, self.forecast, self.decider
        if (variant, self._forecaster) not in units:
            own = [
                units.setdefault(name, partial(self.log.run, name, self.engines[name]))
                for name in self._run_by(variant)
            ]
            if forecast is not None:
                reused, computed = sorted(self._reused[variant]), sorted(self._computed(variant))
                own = [partial(forecast.extrapolate, reused), *own, partial(forecast.learn, computed)]
            units[variant, self._forecaster] = own
        note = [] if decider is None or variant == SKIP else [decider.note]
        return [*units[variant, self._forecaster], *note]

    @property
    def computing(self) -> list[set[str]]:
        """For each tensor of this generation's forecast the variants that compute it."""
        names = self.forecast.names if self.forecast is not None else ()
        return [{variant for variant in self.variants if name in self._computed(variant)} for name in names]

    @property
    def recorded(self) -> Recorded | None:
        """The CUDA graphs of the last shape; None where there are none, or nothing has run."""
        graphs = self.shape.graphs if self._shapes else None
        return graphs.recorded if graphs is not None and graphs.recorded.units else None

    def call(self, variant: str) -> None:
        """Run a call that no plan says the forecasts of, on what the buffers hold."""
        self.execute([*self._preparing, *self.units(variant)])

    def execute(self, units: Sequence[Unit]) -> None:
        """Run units in order, and record them for the next time; where they are recorded they are launched."""
        graphs = self.shape.graphs
        if graphs is None or not graphs.launch(units):
            for unit in units:
                unit()
            self.record(units)

    def record(self, units: Sequence[Unit]) -> None:
        """Record units that have just run, where there is a GPU and the engines bear it at these shapes."""
        if self.shape.graphs is not None and all(engine.capturable for engine in self.engines.values()):
            self.shape.graphs.record(units)

    def close(self) -> None:
        """Close every engine and let go of the buffers."""
        with on_device(self._device) if self._device is not None else nullcontext():
            for shape in self._shapes.values():
                shape.close()
            self._shapes.clear()
            for engine in self.engines.values():
                engine.close()
        self._buffers_for = self._workspace = None
        self._held = set()

    @property
    def _preparing(self) -> list[Unit]:
        """What a call needs first that no plan says the forecasts of."""
        return [] if self.forecast is None else [self.forecast.prepare]

    def _run_by(self, variant: str) -> Sequence[str]:
        return () if variant == SKIP else self.variants[variant]

    def _computed(self, variant: str) -> set[str]:
        """What a variant computes of what is held."""
        return {name for each in self._run_by(variant) for name in self.engines[each].outputs} & self._kept

    def _forget(self) -> None:
        self._held = set()
        if self._shapes:
            self.shape.forget()

    def _prepare(self, sizes: Mapping[str, int], device: "torch.device") -> None:
        """Bind every engine to the buffers of these sizes, and to one workspace: they run one after the other."""
        key = tuple(sorted(sizes.items())), device
        self._device = device
        if self._buffers_for != (sizes, device):
            self._buffers_for = None  # an engine may refuse these sizes after another was bound to them
            shape = self._shapes.pop(key, None) or Buffers([*self.engines.values()], self._kept, sizes, device)
            for engine in self.engines.values():
                for name in (*engine.inputs, *engine.outputs):
                    engine.bind(name, shape.tensors[name])
            self._give_workspace(device)
            self._shapes[key] = shape
            if len(self._shapes) > SHAPES_KEPT:
                _, oldest = self._shapes.popitem(last=False)
                oldest.close()
            self._forget()
            self._buffers_for = (dict(sizes), device)
        if self._forecaster is not None and self.forecast is None:
            kept = {name: self.buffers[name] for name in sorted(self._kept)}
            self.shape.forecasts[self._forecaster] = Forecast(FORECASTERS[self._forecaster], kept)
        if self._wanted and not self._held:
            wanted = {name: self.engines[name] for variant in self._wanted for name in self._run_by(variant)}
            self.shape.compile(wanted, self._progress)
            self._wanted = ()

    def _give_workspace(self, device: "torch.device") -> None:
        import torch

        if self._workspace is not None:
            return
        needed = max(engine.workspace_bytes for engine in self.engines.values())
        self._workspace = torch.empty(needed, dtype=torch.uint8, device=device)
        for engine in self.engines.values():
            if engine.workspace_bytes:
                engine.use_workspace(self._workspace)
