"""Eager PyTorch with a supplied tap: what the tap makes superfluous is not computed, and no kernel is compiled."""

import copy
import functools
import logging

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from deepcache_trt.engines.torch.engine import TorchEngine
from deepcache_trt.export import parity
from deepcache_trt.models.traceable import Tensors, traceable
from tests.engines.deep import DEEP, IMAGE, SHALLOW, engine_of, new_model, run, sample
from tests.engines.graphs import by_name, spec


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return new_model()


def layers_of(engine: TorchEngine, tensors: Tensors) -> int:
    """How many convolutions a run has."""
    run(engine, tensors)
    with torch.profiler.profile() as profile:
        run(engine, tensors)
    return [event.name for event in profile.events() or ()].count("aten::convolution")


def test_without_a_compiler_of_kernels_a_cached_step_costs_only_its_own_layers_too(model: torch.nn.Module) -> None:
    x = {**sample(2, 4, 8, 8), "tap_0": torch.zeros(2, 4, 8, 8)}
    assert layers_of(engine_of(traceable(model, DEEP, SHALLOW), SHALLOW, "eager"), x) == 6
    assert layers_of(engine_of(traceable(model, DEEP, SHALLOW), SHALLOW, "prune"), x) == 2


def test_weights_that_are_written_to_count_in_a_pruned_step(model: torch.nn.Module) -> None:
    x = {**sample(2, 4, 8, 8), "tap_0": torch.zeros(2, 4, 8, 8)}
    own = copy.deepcopy(model)
    engine = engine_of(traceable(own, DEEP, SHALLOW), SHALLOW, "prune")
    before = run(engine, x)["noise_pred"]
    own.last.weight.data.mul_(2)  # type: ignore[operator,union-attr]
    after = run(engine, x)["noise_pred"]
    torch.testing.assert_close(after - own.last.bias[:, None, None], 2 * (before - own.last.bias[:, None, None]))  # type: ignore[index,union-attr]


def test_every_shape_is_traced_by_itself_and_once(model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    traced: list[tuple[int, ...]] = []
    function = traceable(model, DEEP, SHALLOW)

    def noted(tensors: Tensors) -> Tensors:
        traced.append(tuple(tensors["sample"].shape))
        return function(tensors)

    monkeypatch.setattr("deepcache_trt.engines.torch.pruned._SHAPES_KEPT", 2)
    engine = engine_of(noted, SHALLOW, "prune")
    shapes = [(2, 4, 8, 8), (1, 4, 8, 8), (2, 4, 8, 8), (2, 4, 12, 8), (2, 4, 8, 8), (1, 4, 8, 8)]
    for shape in shapes:
        x = {**sample(*shape), "tap_0": torch.randn(shape)}
        expected = parity.run_model(model, DEEP, SHALLOW, x)["noise_pred"]
        assert torch.equal(run(engine, x)["noise_pred"], expected)
    assert traced == [shapes[0], shapes[1], shapes[3], shapes[1]], "of three shapes two are kept, those that came last"


def test_what_is_random_in_training_only_does_not_keep_what_nothing_depends_on() -> None:
    def function(tensors: Tensors) -> Tensors:
        torch.nn.functional.dropout(tensors["sample"].exp(), training=False)
        return {"noise_pred": tensors["tap_0"] + 1}

    engine, x = engine_of(function, SHALLOW, "prune"), {**sample(2, 4, 8, 8), "tap_0": torch.zeros(2, 4, 8, 8)}
    run(engine, x)
    with torch.profiler.profile() as profile:
        run(engine, x)
    names = {event.name for event in profile.events() or ()}
    assert "aten::add" in names
    assert names.isdisjoint({"aten::exp", "aten::dropout"})


def test_who_watches_every_operation_of_torch_sees_all_of_the_model(model: torch.nn.Module) -> None:
    x = {**sample(2, 4, 8, 8), "tap_0": torch.zeros(2, 4, 8, 8)}
    engine = TorchEngine(
        traceable(model, DEEP, SHALLOW),
        inputs=by_name(*DEEP.inputs, spec("tap_0", "float32", *IMAGE)),
        outputs=by_name(*DEEP.outputs),
        device="cpu",
        mode="prune",
        otherwise=functools.partial(parity.run_model, model, DEEP, SHALLOW),
    )
    expected = run(engine, x)["noise_pred"]
    with FlopCounterMode(display=False) as counter:  # which torch's compiler does not trace under
        assert torch.equal(run(engine, x)["noise_pred"], expected)
    assert counter.get_total_flops() > 0
    assert layers_of(engine, x) == 2, "afterwards it is pruned as before"


def test_what_cannot_be_traced_runs_whole_and_it_is_said(
    model: torch.nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    def asks(tensors: Tensors) -> Tensors:
        return {"noise_pred": tensors["sample"] if tensors["sample"].sum() > 0 else tensors["tap_0"]}

    tap = spec("tap_0", "float32", *IMAGE)
    engine = TorchEngine(
        asks,
        inputs=by_name(*DEEP.inputs, tap),
        outputs=by_name(*DEEP.outputs),
        device="cpu",
        mode="prune",
        otherwise=functools.partial(parity.run_model, model, DEEP, SHALLOW),
    )
    x = {**sample(2, 4, 8, 8), "tap_0": torch.zeros(2, 4, 8, 8)}
    with caplog.at_level(logging.INFO, logger="deepcache_trt.engines.torch.engine"):
        for _ in range(2):
            assert torch.equal(run(engine, x)["noise_pred"], parity.run_model(model, DEEP, SHALLOW, x)["noise_pred"])
    [message] = caplog.messages
    assert message.startswith("a cached step takes as long as a full one: torch cannot trace it: ")
