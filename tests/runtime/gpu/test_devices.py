"""A pipeline may be on another GPU than torch's current one: whatever touches a device does so with that one current.

A recording double stands for two GPUs: it says which of them is current whenever the engines, the recorded graphs or
the events of the loop are used. The tensors are on the CPU, which no code here can tell from the second GPU.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler

from deepcache_trt.engines.engine import Engine
from deepcache_trt.engines.profile import Range, ShapeProfile
from deepcache_trt.runtime import loop, session
from deepcache_trt.runtime.guidance import Guidance
from deepcache_trt.runtime.plan import FULL, Plan
from deepcache_trt.runtime.policies.deepcache import SHALLOW
from deepcache_trt.runtime.sampler.probe import probe
from deepcache_trt.runtime.sampler.table import SamplerTable
from deepcache_trt.runtime.session import Session
from deepcache_trt.tensors import TensorSpec

IMAGE = ("batch", 4, "height", "width")
SIZES = {"batch": 1, "height": 4, "width": 4}
SIDE = Range(min=1, opt=4, max=8)
FIRST, SECOND = 0, 1


class TwoGpus:
    """Which GPU is current, and which one was when something was done."""

    def __init__(self) -> None:
        self.current = FIRST
        self.uses: list[tuple[str, int]] = []

    def note(self, what: str) -> None:
        self.uses.append((what, self.current))

    @contextmanager
    def on_device(self, device: torch.device) -> Iterator[None]:
        """Of the pipeline's tensors, which are on the second one."""
        before, self.current = self.current, SECOND
        try:
            yield
        finally:
            self.current = before


class Noting(Engine):
    """An engine that gives its input, and says where it was used."""

    capturable = True

    def __init__(self, gpus: TwoGpus, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self.inputs, self.outputs = (
            {
                name: TensorSpec(name=name, dtype="float32", shape=(1,) if name == "timestep" else IMAGE)
                for name in names
            }
            for names in (inputs, outputs)
        )
        self._gpus = gpus
        self._bound: dict[str, torch.Tensor] = {}

    def bind(self, name: str, tensor: torch.Tensor) -> None:
        self._gpus.note("bind")
        self._bound[name] = tensor

    def run(self) -> None:
        self._gpus.note("run")
        for name in self.outputs:
            self._bound[name].copy_(self._bound["sample"])

    def close(self) -> None:
        self._gpus.note("close")


def _spec(name: str) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=(1,) if name == "timestep" else IMAGE)


class Graphs:
    """Recorded graphs: the first launch finds nothing recorded, later ones launch."""

    def __init__(self, gpus: TwoGpus) -> None:
        self._gpus = gpus
        self._units: set[Any] = set()

    def launch(self, units: Sequence[Any]) -> bool:
        self._gpus.note("launch")
        if not set(units) <= self._units:
            return False
        for unit in units:
            unit()
        return True

    def record(self, units: Sequence[Any]) -> None:
        self._gpus.note("record")
        self._units |= set(units)

    def close(self) -> None:
        self._gpus.note("close graphs")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> TwoGpus:
    double = TwoGpus()

    class Event:
        def __init__(self, blocking: bool) -> None: ...

        def record(self) -> None:
            double.note("event")

        def synchronize(self) -> None:
            double.note("wait")

        def query(self) -> bool:
            double.note("query")
            return True

    monkeypatch.setattr(loop, "on_device", double.on_device)
    monkeypatch.setattr(session, "on_device", double.on_device)
    monkeypatch.setattr("torch.cuda.Event", Event)
    return double


def opened(gpus: TwoGpus) -> Session:
    full = Noting(gpus, ("sample", "timestep"), ("noise_pred", "tap_0"))
    shallow = Noting(gpus, ("sample", "tap_0"), ("noise_pred",))
    profile = ShapeProfile(batch=SIDE, height=SIDE, width=SIDE)
    made = Session({FULL: full, SHALLOW: shallow}, outputs=["noise_pred"], profiles=[profile])
    tensors = {"sample": torch.ones(1, 4, 4, 4), "timestep": torch.ones(1)}
    made.run(FULL, tensors, SIZES)
    made.shape.graphs = Graphs(gpus)  # type: ignore[assignment]  # the double
    made.run(FULL, tensors, SIZES)
    return made


def test_every_use_of_a_device_is_with_that_device_current(gpus: TwoGpus) -> None:
    made = opened(gpus)
    scheduler: Any = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(4)
    table = probe(scheduler, scheduler.timesteps)
    assert isinstance(table, SamplerTable)
    for _ in range(2):  # launched one by one and recorded, then launched as one
        loop.denoise(
            made,
            Plan(variants=(FULL, SHALLOW, FULL, SHALLOW)),
            table,
            Guidance(scale=None),
            latents=torch.ones(1, 4, 4, 4),
            timesteps=list(scheduler.timesteps),
            generator=None,
            on_step=lambda done: None,
        )
    made.close()
    assert {what for what, _ in gpus.uses} == {
        *("bind", "run", "launch", "record", "event", "wait", "close", "close graphs")
    }
    assert {where for _, where in gpus.uses} == {SECOND}
    assert gpus.current == FIRST


def test_a_session_that_never_ran_is_closed_wherever_it_is(gpus: TwoGpus) -> None:
    engine = Noting(gpus, ("sample",), ("noise_pred",))
    Session({FULL: engine}, outputs=["noise_pred"], profiles=[ShapeProfile()]).close()
    assert gpus.uses == [("close", FIRST)]
