"""Eager PyTorch with a supplied tap: what the tap makes superfluous is not computed, and no kernel is compiled."""

import copy
import functools
import logging

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from deepcache_trt.engines.torch import TorchEngine
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
    def breaks(tensors: Tensors) -> Tensors:
        torch._dynamo.graph_break()
        return {}

    tap = spec("tap_0", "float32", *IMAGE)
    engine = TorchEngine(
        breaks,
        inputs=by_name(*DEEP.inputs, tap),
        outputs=by_name(*DEEP.outputs),
        device="cpu",
        mode="prune",
        otherwise=functools.partial(parity.run_model, model, DEEP, SHALLOW),
    )
    x = {**sample(2, 4, 8, 8), "tap_0": torch.zeros(2, 4, 8, 8)}
    with caplog.at_level(logging.INFO, logger="deepcache_trt.engines.torch"):
        for _ in range(2):
            assert torch.equal(run(engine, x)["noise_pred"], parity.run_model(model, DEEP, SHALLOW, x)["noise_pred"])
    [message] = caplog.messages
    assert message.startswith("a cached step takes as long as a full one: torch.compile failed: ")
