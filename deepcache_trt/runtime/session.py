"""A session: the engines of one model's variants, on shared buffers.

The full engine's output buffer *is* the shallow engine's input buffer. Every engine reads and fills the same static
buffers, bound once for each shape, so that compiled engines see the same addresses at every run.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from deepcache_trt.engines.engine import SHAPES_KEPT, Engine
from deepcache_trt.engines.profile import ShapeProfile, nearest
from deepcache_trt.progress import Progress, logged
from deepcache_trt.runtime.cuda_graph import CudaGraphs, Recorded, Unit
from deepcache_trt.runtime.device import on_device
from deepcache_trt.runtime.forecast import FORECASTERS, Forecast
from deepcache_trt.runtime.plan import SKIP
from deepcache_trt.runtime.run_log import RunLog
from deepcache_trt.tensors import TensorSpec

if TYPE_CHECKING:
    import torch


class Buffers:
    """The tensors of one shape, by name, and what was recorded on their addresses."""

    def __init__(self, tensors: Mapping[str, "torch.Tensor"], graphs: CudaGraphs | None) -> None:
        self.tensors = tensors
        self.graphs = graphs
        self.compiled: set[str] = set()  # the variants whose engines have compiled what they compile for a shape
        self.forecasts: dict[str, Forecast] = {}  # by the forecaster, made for the first generation that wants it
        self.steps: dict[Hashable, Callable[[], None]] = {}  # see `Session.step`
        self.loops: dict[Hashable, Any] = {}  # what the loop keeps beside the engines' tensors: its `LoopState`s

    def close(self) -> None:
        """Destroy what was recorded."""
        if self.graphs is not None:
            self.graphs.close()


class Session:
    """Runs variants by name. Whoever calls decides the order; a cached variant needs a full one at its sizes before."""

    def __init__(
        self,
        engines: Mapping[str, Engine],
        *,
        outputs: Sequence[str],
        profiles: Sequence[ShapeProfile],
        progress: Progress = logged,
    ) -> None:
        """Take over the engines of one model.

        Args:
            engines: by the names of their variants.
            outputs: what `run` returns, as far as the variant gives it; an engine's other outputs are taps.
            profiles: the shapes that every one of the engines takes.
            progress: told where engines compile something for a shape.
        """
        self.engines = engines
        self._progress = progress
        self.profiles = profiles
        self.log = RunLog()
        self._outputs = outputs
        self._shapes: OrderedDict[Hashable, Buffers] = OrderedDict()  # the last few, the newest last
        self._buffers_for: tuple[dict[str, int], torch.device] | None = None
        self._workspace: torch.Tensor | None = None
        self._device: torch.device | None = None  # the engines were last bound there
        self.generation = 0
        self._forecaster: str | None = None
        self._wanted: Collection[str] = ()  # the variants of a generation that has not run yet
        self._held: set[str] = set()  # the outputs that this generation has computed

    def serves(self, sizes: Mapping[str, int]) -> bool:
        """Whether the engines take a call of these sizes."""
        return nearest(self.profiles, sizes) is not None

    def holds(self, variant: str, sizes: Mapping[str, int]) -> bool:
        """Whether the buffers hold, for these sizes, everything that a variant takes from earlier calls."""
        return self._reused(variant) <= self._held and self._is_for(sizes)

    def begin(self, *, forecast: str | None, variants: Collection[str] = ()) -> int:
        """Start a generation: nothing of one may reach another, so the next run must be a full one.

        Args:
            forecast: how what a step reuses is extrapolated, one of `FORECASTERS`; None: it is not.
            variants: those that it will run; what their engines compile for a shape is compiled before its first step.

        Returns:
            The number of the generation; when `generation` is another, someone else has begun one.
        """
        self._forecaster, self._wanted = forecast, variants
        self._forget()
        self.generation += 1
        return self.generation

    def run(
        self, variant: str, tensors: Mapping[str, "torch.Tensor"], sizes: Mapping[str, int], *, call: int = 0
    ) -> dict[str, "torch.Tensor"]:
        """Run one variant.

        Args:
            variant: the name of an engine, or `SKIP`.
            tensors: the inputs by name; those that the variant does not read are left alone.
            sizes: the size of each dynamic axis.
            call: its index in the generation.

        Returns:
            The variant's outputs, in tensors that are the caller's to keep: multi-step samplers hold on to several.
        """
        device = next(iter(tensors.values())).device
        with on_device(device):
            self._prepare(sizes, device)
            assert self.holds(variant, sizes), "a cached step before what it reuses was computed"
            engine = self.engines.get(variant)
            computed = engine.outputs if engine else {}
            for name in engine.inputs.keys() - self._reused(variant) if engine else ():
                self.buffers[name].copy_(tensors[name])
            forecast = self.forecast
            if forecast is not None:
                forecast.prepare(call)
            self._held -= computed.keys()  # a run that fails may have written half of it
            self._execute(self.step(variant))
            if forecast is not None:
                forecast.note(call, computed)
        self._held |= computed.keys()
        given = [name for name in self._outputs if engine is None or name in computed]
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
    def computing(self) -> list[set[str]]:
        """For each tensor of this generation's forecast the variants that compute it."""
        names = self.forecast.names if self.forecast is not None else ()
        return [{variant for variant, engine in self.engines.items() if name in engine.outputs} for name in names]

    @property
    def recorded(self) -> Recorded | None:
        """The CUDA graphs of the last shape; None where there are none, or nothing has run."""
        graphs = self.shape.graphs if self._shapes else None
        return graphs.recorded if graphs is not None and graphs.recorded.units else None

    def latents_like(self, latents: "torch.Tensor") -> "torch.Tensor":
        """The part of the model's input that holds latents [B, C, …], as they were fed: [copies · B, C, …].

        Where the model takes further channels, such as a mask, those are left out.
        """
        axis = latents.ndim - 3  # the channels are axis 1 of an image and 2 of a video
        return self.buffers["sample"].narrow(axis, 0, latents.shape[axis])

    def step(self, variant: str) -> Callable[[], None]:
        """One variant on what the buffers hold, forecast included; the same function each time for a shape."""
        steps, forecast = self.shape.steps, self.forecast
        key = variant, self._forecaster
        if key not in steps:
            engine = self.engines.get(variant)
            run = None if engine is None else partial(self.log.run, variant, engine)
            computed = () if engine is None else engine.outputs
            steps[key] = _step(run, forecast, reused=sorted(self._reused(variant)), computed=computed)
        return steps[key]

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

    def _execute(self, step: Callable[[], None]) -> None:
        graphs = self.shape.graphs
        if graphs is None or not graphs.launch([step]):
            step()
            self.record([step])

    def _reused(self, variant: str) -> set[str]:
        """What a variant takes from earlier calls: taps, or, where the model is not called at all, its prediction."""
        if variant == SKIP:
            return set(self._outputs)
        given = {name for engine in self.engines.values() for name in engine.outputs}
        return given & self.engines[variant].inputs.keys()

    def _is_for(self, sizes: Mapping[str, int]) -> bool:
        return self._buffers_for is not None and self._buffers_for[0] == sizes

    def _forget(self) -> None:
        self._held = set()
        if self._shapes and self.forecast is not None:
            self.forecast.forget()

    def _prepare(self, sizes: Mapping[str, int], device: "torch.device") -> None:
        """Bind every engine to the buffers of these sizes, and to one workspace: they run one after the other."""
        key = tuple(sorted(sizes.items())), device
        self._device = device
        if self._buffers_for != (sizes, device):
            self._buffers_for = None  # an engine may refuse these sizes after another was bound to them
            shape = self._shapes.pop(key, None) or self._new_buffers(sizes, device)
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
            self.shape.forecasts[self._forecaster] = self._new_forecast(self._forecaster)
        if self._wanted and not self._held:
            self._compile(self._wanted)
            self._wanted = ()

    def _compile(self, variants: Collection[str]) -> None:
        """Let engines do now, on whatever the buffers hold, what they would do in the middle of an image."""
        for variant in dict.fromkeys(variants):
            engine = self.engines.get(variant)
            if engine is not None and engine.compiles_at_first_run and variant not in self.shape.compiled:
                with self._progress(f"compiling the {variant} variant for this shape"):
                    engine.run()
                self.shape.compiled.add(variant)

    def _new_buffers(self, sizes: Mapping[str, int], device: "torch.device") -> Buffers:
        engines = self.engines.values()
        specs = {name: spec for engine in engines for name, spec in (engine.inputs | engine.outputs).items()}
        tensors = {name: _buffer(spec, sizes, device) for name, spec in specs.items()}
        return Buffers(tensors, CudaGraphs(device) if device.type == "cuda" else None)

    def _new_forecast(self, forecaster: str) -> Forecast:
        """Of everything that some variant takes from an earlier call."""
        reused = sorted(set().union(*map(self._reused, self.engines)) | set(self._outputs))
        return Forecast(FORECASTERS[forecaster], {name: self.buffers[name] for name in reused})

    def _give_workspace(self, device: "torch.device") -> None:
        import torch

        if self._workspace is not None:
            return
        needed = max(engine.workspace_bytes for engine in self.engines.values())
        self._workspace = torch.empty(needed, dtype=torch.uint8, device=device)
        for engine in self.engines.values():
            if engine.workspace_bytes:
                engine.use_workspace(self._workspace)


def _step(
    run: Callable[[], None] | None, forecast: Forecast | None, *, reused: Collection[str], computed: Iterable[str]
) -> Callable[[], None]:
    """What one call does: what it reuses is forecast, `run` runs the engine, and what that computed is learnt."""
    learnt = [name for name in computed if forecast is not None and name in forecast.names]

    def step() -> None:
        if forecast is not None:
            forecast.extrapolate(reused)
        if run is not None:
            run()
        if forecast is not None:
            forecast.learn(learnt)

    return step


def _buffer(spec: TensorSpec, sizes: Mapping[str, int], device: "torch.device") -> "torch.Tensor":
    import torch

    return torch.zeros(spec.resolve(sizes), dtype=getattr(torch, spec.dtype), device=device)
