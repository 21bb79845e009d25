"""A session: variants on shared buffers, and nothing of one shape or generation in another."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from deepcache_trt.engines.engine import Engine, check_binding
from deepcache_trt.engines.profile import Range, ShapeProfile
from deepcache_trt.errors import BackendError, ShapeError
from deepcache_trt.runtime.session import Session
from deepcache_trt.tensors import TensorSpec

IMAGE = ("batch", 4, "height", "width")
SMALL, LARGE = {"batch": 1, "height": 2, "width": 2}, {"batch": 2, "height": 4, "width": 2}
SIDE = Range(min=2, opt=2, max=4)
PROFILES = (ShapeProfile(batch=Range(min=1, opt=1, max=2), height=SIDE, width=SIDE),)


def specs(*names: str) -> dict[str, TensorSpec]:
    return {name: TensorSpec(name=name, dtype="float32", shape=IMAGE) for name in names}


class Sum(Engine):
    """Every output is the sum of the inputs, plus the place of the output: 0, 1 …"""

    capturable = False

    def __init__(self, inputs: tuple[str, ...], outputs: tuple[str, ...], workspace: int = 0) -> None:
        self.inputs, self.outputs, self.workspace_bytes = specs(*inputs), specs(*outputs), workspace
        self.bound: dict[str, torch.Tensor] = {}
        self.bindings = 0
        self.workspaces: list[torch.Tensor] = []
        self.closed = 0
        self.refused: dict[str, int] | None = None  # a shape that this engine cannot take

    def bind(self, name: str, tensor: torch.Tensor) -> None:
        spec = self.inputs.get(name) or self.outputs[name]
        check_binding(spec, tensor, "cpu")
        if self.refused is not None and tuple(tensor.shape) == spec.resolve(self.refused):
            raise ShapeError(f"{name} is too large")
        self.bound[name] = tensor
        self.bindings += 1

    def use_workspace(self, memory: torch.Tensor) -> None:
        self.workspaces.append(memory)

    def run(self) -> None:
        total = sum((self.bound[name] for name in self.inputs), torch.tensor(0))
        for place, name in enumerate(self.outputs):
            self.bound[name].copy_(total + place)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def full() -> Sum:
    return Sum(("sample", "timestep"), ("noise_pred", "tap_0"), workspace=256)


@pytest.fixture
def shallow() -> Sum:
    return Sum(("sample", "tap_0"), ("noise_pred",), workspace=1024)


@pytest.fixture
def session(full: Sum, shallow: Sum) -> Session:
    return Session({"full": full, "shallow": shallow}, outputs=["noise_pred"], profiles=PROFILES)


def tensors(sizes: Mapping[str, int], sample: float = 1.0, timestep: float = 10.0) -> dict[str, torch.Tensor]:
    values = {"sample": sample, "timestep": timestep}
    return {name: torch.full(spec.resolve(sizes), values[name]) for name, spec in specs(*values).items()}


def only(tensor: torch.Tensor) -> float:
    """The one value of all its elements."""
    value: float
    (value,) = tensor.unique().tolist()
    return value


def test_a_cached_step_reads_what_the_full_step_left_in_the_same_memory(
    session: Session, full: Sum, shallow: Sum
) -> None:
    assert only(session.run("full", tensors(SMALL), SMALL)["noise_pred"]) == 11
    assert full.bound["tap_0"].data_ptr() == shallow.bound["tap_0"].data_ptr()
    assert only(session.run("shallow", tensors(SMALL, sample=5), SMALL)["noise_pred"]) == 5 + 12


def test_every_name_is_one_buffer_for_all_engines(session: Session, full: Sum, shallow: Sum) -> None:
    session.run("full", tensors(SMALL), SMALL)
    both = full.bound.keys() & shallow.bound.keys()
    assert both == {"sample", "noise_pred", "tap_0"}
    assert all(full.bound[name] is shallow.bound[name] for name in both)


def test_buffers_are_bound_once_for_each_shape(session: Session, full: Sum, shallow: Sum) -> None:
    for variant in ("full", "shallow", "shallow", "full", "shallow"):
        session.run(variant, tensors(SMALL), SMALL)
    assert (full.bindings, shallow.bindings) == (4, 3)
    addresses = {name: tensor.data_ptr() for name, tensor in full.bound.items()}
    session.run("full", tensors(SMALL), SMALL)
    assert {name: tensor.data_ptr() for name, tensor in full.bound.items()} == addresses


def test_the_callers_tensors_are_read_and_left_alone(session: Session, full: Sum) -> None:
    given = tensors(SMALL)
    session.run("full", given, SMALL)
    assert full.bound["sample"].data_ptr() != given["sample"].data_ptr()
    assert {name: only(tensor) for name, tensor in given.items()} == {"sample": 1, "timestep": 10}


def test_results_are_the_callers_to_keep(session: Session) -> None:
    first = session.run("full", tensors(SMALL), SMALL)["noise_pred"]
    second = session.run("full", tensors(SMALL, sample=2), SMALL)["noise_pred"]
    third = session.run("shallow", tensors(SMALL, sample=3), SMALL)["noise_pred"]
    assert [only(tensor) for tensor in (first, second, third)] == [11, 12, 3 + 13]
    first.zero_()
    assert only(session.run("shallow", tensors(SMALL, sample=3), SMALL)["noise_pred"]) == 3 + 13


def test_taps_are_no_results(session: Session) -> None:
    assert set(session.run("full", tensors(SMALL), SMALL)) == {"noise_pred"}


def test_one_workspace_as_large_as_any_of_them_needs_is_given_once_to_all(
    session: Session, full: Sum, shallow: Sum
) -> None:
    for sizes in (SMALL, LARGE, SMALL):
        session.run("full", tensors(sizes), sizes)
    ((one,), (other,)) = full.workspaces, shallow.workspaces
    assert one is other
    assert one.nbytes == 1024


def test_an_engine_that_manages_its_own_workspace_is_given_none() -> None:
    engine = Sum(("sample",), ("noise_pred",))
    Session({"full": engine}, outputs=["noise_pred"], profiles=PROFILES).run("full", tensors(SMALL), SMALL)
    assert engine.workspaces == []


def test_taps_are_held_from_a_full_step_on_at_its_sizes(session: Session) -> None:
    assert not session.holds("shallow", SMALL)
    session.run("full", tensors(SMALL), SMALL)
    assert session.holds("shallow", SMALL)
    assert not session.holds("shallow", LARGE)
    session.run("shallow", tensors(SMALL), SMALL)
    assert session.holds("shallow", SMALL)


@pytest.mark.parametrize("sizes", [SMALL, LARGE])
def test_a_cached_step_before_a_full_one_is_our_own_bug(session: Session, sizes: dict[str, int]) -> None:
    with pytest.raises(AssertionError, match="before what it reuses was computed"):
        session.run("shallow", tensors(sizes), sizes)


def test_another_size_forgets_the_taps_of_the_last(session: Session) -> None:
    session.run("full", tensors(SMALL), SMALL)
    with pytest.raises(AssertionError, match="before what it reuses"):
        session.run("shallow", tensors(LARGE), LARGE)
    session.run("full", tensors(LARGE), LARGE)
    assert not session.holds("shallow", SMALL)
    assert only(session.run("shallow", tensors(LARGE, sample=5), LARGE)["noise_pred"]) == 5 + 12
    with pytest.raises(AssertionError, match="before what it reuses"):
        session.run("shallow", tensors(SMALL), SMALL)


def test_forgotten_taps_are_not_used_again(session: Session) -> None:
    session.run("full", tensors(SMALL), SMALL)
    session.begin(forecast=None)
    assert not session.holds("shallow", SMALL)
    with pytest.raises(AssertionError, match="before what it reuses"):
        session.run("shallow", tensors(SMALL), SMALL)


def test_a_session_serves_what_one_of_its_profiles_covers(session: Session) -> None:
    assert session.serves(SMALL)
    assert session.serves(LARGE)
    assert not session.serves({**LARGE, "batch": 3})
    assert not session.serves({**SMALL, "width": 1})


@pytest.mark.parametrize("second", [False, True], ids=["the first engine", "the second engine"])
def test_a_size_that_an_engine_refuses_does_not_spoil_the_size_before(
    session: Session, full: Sum, shallow: Sum, second: bool
) -> None:
    session.run("full", tensors(SMALL), SMALL)
    (shallow if second else full).refused = LARGE
    with pytest.raises(ShapeError, match="too large"):
        session.run("full", tensors(LARGE), LARGE)
    assert not session.holds("shallow", SMALL)
    assert only(session.run("full", tensors(SMALL, sample=2), SMALL)["noise_pred"]) == 12
    assert full.bound["tap_0"] is shallow.bound["tap_0"]
    assert only(session.run("shallow", tensors(SMALL, sample=5), SMALL)["noise_pred"]) == 5 + 13


def test_a_full_step_that_fails_leaves_no_taps_to_use(
    session: Session, full: Sum, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.run("full", tensors(SMALL), SMALL)

    def fail() -> None:
        full.bound["tap_0"].fill_(torch.nan)
        raise BackendError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(full, "run", fail)
        with pytest.raises(BackendError):
            session.run("full", tensors(SMALL), SMALL)
    assert not session.holds("shallow", SMALL)


def test_close_closes_every_engine_and_holds_no_memory(session: Session, full: Sum, shallow: Sum) -> None:
    session.run("full", tensors(SMALL), SMALL)
    session.close()
    assert (full.closed, shallow.closed) == (1, 1)
    assert not session.holds("shallow", SMALL)


def test_what_compiles_at_its_first_run_does_so_once_for_a_shape_and_says_so(full: Sum, shallow: Sum) -> None:
    stages: list[str] = []

    @contextmanager
    def progress(stage: str) -> Iterator[Any]:
        stages.append(stage)
        yield None

    shallow.compiles_at_first_run = True
    engines = {"full": full, "shallow": shallow}
    session = Session(engines, outputs=["noise_pred"], profiles=PROFILES, progress=progress)
    for sizes in (SMALL, LARGE, SMALL):
        session.begin(forecast=None)
        session.run("full", tensors(sizes), sizes)
    assert stages == [], "nobody wants a cached step"
    for sizes in (SMALL, LARGE, SMALL):
        session.begin(forecast=None, variants=("full", "shallow", "shallow"))
        assert only(session.run("full", tensors(sizes), sizes)["noise_pred"]) == 11
    assert stages == ["compiling the shallow engine for this shape"] * 2
