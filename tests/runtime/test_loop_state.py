"""The update between two steps, really compiled: on a GPU it is, and each loop state has one of its own."""

import copy
import itertools
import logging
from dataclasses import fields

import pytest
import torch

from deepcache_trt.runtime import loop_state
from deepcache_trt.runtime.loop_state import WINDOW, Memory, advance, fused

# torch's compiler imports modules that define scripts.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")


def memory_of(
    side: int,
    dtype: torch.dtype = torch.float32,
    *,
    guided: bool = True,
    rescaled: bool = False,
    known: bool = False,
    noisy: bool = True,
    forecast: bool = False,
    paired: bool = False,
) -> Memory:
    """Of two images, with numbers that every part of the update changes."""
    generator = torch.Generator().manual_seed(side)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    copies, size = 2 if guided and not paired else 1, 2 * 4 * side * side
    slots = torch.tensor([2.0, 4.0, 1.0]).expand(WINDOW, 3)
    return Memory(
        prediction=random(2 * copies, 4, side, side).to(dtype),
        model_input=random(copies, 2, 4, side, side).to(dtype),
        timestep=torch.zeros(1, dtype=torch.int64),
        forecast=torch.zeros(2, 3) if forecast else torch.zeros(0),
        scale=torch.tensor(5.0) if guided else None,
        rescale=torch.tensor(0.7) if rescaled else None,
        image_scale=None,
        is_paired=paired,
        channels=None,
        known=random(3, size) if known else None,
        history=random(6, size),
        rows=torch.cat([random(WINDOW, 6), slots, 100 * random(WINDOW, 4 + 2 * 3 if forecast else 4)], dim=1),
        noise=random(WINDOW if noisy else 0, size),
        call=torch.zeros(1, dtype=torch.int64),
    )


def copied(memory: Memory) -> Memory:
    return copy.deepcopy(memory)


def restore(memory: Memory, origin: Memory) -> None:
    for field in fields(memory):
        if isinstance(getattr(memory, field.name), torch.Tensor):
            getattr(memory, field.name).copy_(getattr(origin, field.name))


def assert_same(ours: Memory, expected: Memory) -> None:
    for field in fields(ours):
        found, wanted = getattr(ours, field.name), getattr(expected, field.name)
        if isinstance(wanted, torch.Tensor):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        else:
            assert found == wanted


# More than torch compiles of one function before it gives up on it.
STATES = [
    *(memory_of(side, dtype) for side, dtype in itertools.product((2, 3, 4), (torch.float32, torch.bfloat16))),
    memory_of(4, guided=False),
    memory_of(4, rescaled=True),
    memory_of(4, known=True),
    memory_of(4, noisy=False),
    memory_of(4, forecast=True),
    memory_of(4, paired=True),
]


@pytest.mark.parametrize("compiler", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_every_state_of_a_long_lived_process_has_its_own_compiled_update(
    compiler: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    torch._dynamo.reset()
    assert len(STATES) > torch._dynamo.config.recompile_limit
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: real(*args, **kwargs, backend=compiler))
    with torch.no_grad():
        for state in STATES:
            ours, expected = copied(state), copied(state)
            update = fused(ours)
            restore(ours, state)
            for _ in range(3):
                update()
                advance(expected)
            assert_same(ours, expected)
    assert not [record for record in caplog.records if record.name == loop_state.__name__]


def test_the_real_compiler_gives_the_same_update() -> None:
    torch._dynamo.reset()
    state = memory_of(4, torch.bfloat16, rescaled=True, known=True, forecast=True)
    ours, expected = copied(state), copied(state)
    with torch.no_grad():
        update = fused(ours)
        restore(ours, state)
        for _ in range(2):
            update()
            advance(expected)
    assert_same(ours, expected)


@pytest.mark.parametrize("known", [False, True], ids=["made", "inpainted"])
def test_the_update_is_one_graph_for_torchs_compiler(known: bool) -> None:
    """A break would be a second launch, or an error."""
    explained = torch._dynamo.explain(advance)(memory_of(4, known=known, rescaled=True, forecast=True))
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)


def refuses(*_: object) -> None:
    raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")


def test_without_a_compiler_the_update_is_eager_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    torch._dynamo.reset()
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: real(*args, **kwargs, backend=refuses))
    state = memory_of(4)
    ours, expected = copied(state), copied(state)
    with caplog.at_level(logging.WARNING, logger=loop_state.__name__):
        update = fused(ours)
    restore(ours, state)
    update()
    advance(expected)
    assert_same(ours, expected)
    [message] = caplog.messages
    assert message.startswith("the update between two steps runs in eager PyTorch: ")
    assert "C compiler" in message


def test_a_caller_whose_modes_change_often_gets_the_same_update(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: real(*args, **kwargs, backend="eager"))
    state = memory_of(4)
    ours, expected = copied(state), copied(state)
    update = fused(ours)
    restore(ours, state)
    # What torch compiled is for a caller that asks for gradients.
    with torch._dynamo.config.patch(recompile_limit=1), torch.no_grad():
        for _ in range(3):
            update()
            advance(expected)
    assert_same(ours, expected)
