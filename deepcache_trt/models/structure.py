"""What a live model is beside its config: its attention processors, and whatever else was changed in its modules."""

from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Looked:
    """A model as it was looked at last.

    Attributes:
        snapshot: which tells whether it still is so.
        config: the model's, as text.
        structure: see `structure_of`.
    """

    snapshot: Snapshot
    config: str
    structure: dict[str, Any]


class KnownStructure:
    """`structure_of` a model that is asked for before every image, and looked at again only where it has changed."""

    def __init__(self, check: Callable[[Any], None]) -> None:
        """Nothing is looked at yet.

        Args:
            check: raises for what a graph cannot carry either, wherever the model is looked at again.
        """
        self._check = check
        self._known: Looked | None = None

    def of(self, model: Any) -> Looked:
        """The model as it is; raises as `structure_of`."""
        known = self._known
        if known is None or known.snapshot.model is not model or not known.snapshot.is_current():
            self._known = None
            self._check(model)
            structure = structure_of(model)
            snapshot = Snapshot(model, family_of(type(model).__name__).module)
            self._known = known = Looked(snapshot, repr(config_of(model)), structure)
        return known


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
