"""What a live model is beside its config: its attention processors, and whatever else was changed in its modules."""

from typing import Any

import torch

from deepcache_trt.models.fresh import config_of, empty_model
from deepcache_trt.models.live_tree import Snapshot, differences
from deepcache_trt.models.processors import processors_of
from deepcache_trt.models.registry import family_of


def structure_of(model: Any) -> dict[str, Any]:
    """Everything beside its config that decides what the model computes with given weights; as JSON.

    Empty for a model that is what its config says. Two models with the same config and structure share a graph.

    Raises:
        UnsupportedError: something that a graph cannot carry.
    """
    modules = differences(model, family_of(type(model).__name__).module)
    return processors_of(model) | ({"modules": modules} if modules else {})


class KnownStructure:
    """`structure_of` a model that is asked for before every image, and looked at again only where it has changed."""

    def __init__(self) -> None:
        """Nothing is looked at yet."""
        self._known: tuple[Snapshot, dict[str, Any]] | None = None

    def of(self, model: Any) -> dict[str, Any]:
        """See `structure_of`."""
        if self._known is None or self._known[0].model is not model or not self._known[0].is_current():
            self._known = None
            structure = structure_of(model)
            self._known = Snapshot(model, family_of(type(model).__name__).module), structure
        return self._known[1]


def changed_buffers(model: Any) -> dict[str, list[Any]]:
    """The buffers that are in no checkpoint and have other values than in a new model, with what they have, as JSON."""
    stored = model.state_dict()
    held = {name: buffer for name, buffer in model.named_buffers() if name not in stored}
    new = dict(empty_model(type(model), config_of(model)).named_buffers()) if held else {}
    return {
        name: buffer.tolist()
        for name, buffer in held.items()
        if name not in new or not torch.equal(new[name].to(buffer.dtype), buffer.detach().cpu())
    }
