"""While a model is traced, nothing else is taken for a part of it."""

import gc
import weakref
from collections.abc import Iterator

import pytest
import torch

from deepcache_trt.export.trace import onnx_from_config
from tests import tiny


class Forgotten:
    """Something that only the collector ends, with calls of torch, as open engines do."""

    ended: list[int]

    def __init__(self, ended: list[int]) -> None:
        self.itself = self
        weakref.finalize(self, end, ended)


def end(ended: list[int]) -> None:
    # How many modes see what torch is asked for now: those of a tracer, if one is at work.
    ended.append(torch._C._len_torch_function_stack())
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        pass


@pytest.fixture
def endings() -> Iterator[list[int]]:
    """One for each collection, of which there are many."""
    ended: list[int] = []

    def forget_another(phase: str, info: dict[str, int]) -> None:
        if phase == "stop":
            Forgotten(ended)

    threshold = gc.get_threshold()
    gc.callbacks.append(forget_another)
    gc.set_threshold(3000, 2, 2)
    yield ended
    gc.set_threshold(*threshold)
    gc.callbacks.remove(forget_another)


def test_what_ends_meanwhile_waits_until_the_model_is_traced(endings: list[int]) -> None:
    model_class, config = tiny.PARTS["vae"]
    graphs = [onnx_from_config(model_class, config, dtype="float32") for _ in range(2)]
    assert endings
    assert not any(endings)
    assert len(graphs[0].graph) == len(graphs[1].graph)
    assert gc.isenabled()
