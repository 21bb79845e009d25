"""New models of a config."""

import threading
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights

from deepcache_trt.models.catalogue import CATALOGUE
from deepcache_trt.models.fresh import empty_model, model_from_config
from tests import tiny

MODELS = {f"{name} {part}": model for name, entry in CATALOGUE.items() for part, model in entry.parts.items()}


@pytest.mark.parametrize("name", MODELS)
def test_an_empty_model_is_the_model_without_its_weights(name: str) -> None:
    model_class, config = MODELS[name].model_class(), MODELS[name].config
    model = empty_model(model_class, config)
    with init_empty_weights(include_buffers=False):
        expected = model_from_config(model_class, config)
    weights, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    assert {name: (each.shape, each.dtype, each.requires_grad) for name, each in weights.items()} == {
        name: (each.shape, each.dtype, each.requires_grad) for name, each in expected.named_parameters()
    }
    assert all(each.is_meta for each in weights.values())
    assert buffers.keys() == dict(expected.named_buffers()).keys()
    assert all(torch.equal(each, buffers[name]) for name, each in expected.named_buffers())


def test_models_of_other_threads_have_weights_while_an_empty_one_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.denoiser("sd15").config
    model_class = type(tiny.denoiser("sd15"))
    devices: set[str] = set()
    init = torch.nn.GroupNorm.__init__

    def meanwhile(self: Any, *args: Any, **kwargs: Any) -> None:
        def make() -> None:
            devices.add(torch.nn.Linear(2, 2).weight.device.type)

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        init(self, *args, **kwargs)

    monkeypatch.setattr(torch.nn.GroupNorm, "__init__", meanwhile)
    model = empty_model(model_class, dict(config))
    assert devices == {"cpu"}
    assert all(weight.is_meta for weight in model.parameters())
