"""What the catalogue says of a model: where its weights are, and the real architectures of its parts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deepcache_trt.models.families.family import Family
from deepcache_trt.models.originals.original import Original

# A config names the architecture as its checkpoint publishes it; the classes' own defaults are left out.
Config = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One component of a pipeline: its family, and its config."""

    family: Family
    config: Config

    @property
    def class_name(self) -> str:
        """Its class, as `model_index.json` names it."""
        return self.family.class_name

    def model_class(self) -> Any:
        """The class, imported when it is asked for."""
        return self.family.model_class()


@dataclass(frozen=True, kw_only=True)
class TorchConfig:
    """One that stays in PyTorch: its class, in a module of ours or a library, and its config."""

    library: str
    class_name: str
    config: Config

    def model_class(self) -> Any:
        """The class, imported when it is asked for."""
        from importlib import import_module

        return getattr(import_module(self.library), self.class_name)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One model of the catalogue.

    Attributes:
        source: a hub id or a folder; None: published, but not in the form of diffusers.
        parts: the components that engines are built of, by their folder's name; none: read them from the folder.
        original: how the model's first checkpoints are laid out, where they can be converted.
        beside: what such a checkpoint holds beside `parts`, by its folder's name.
        prompts: examples of what it draws, where it draws little; none: anything.
    """

    source: str | None
    parts: Mapping[str, ModelConfig]
    original: Original | None = None
    beside: Mapping[str, TorchConfig] = field(default_factory=dict)
    prompts: tuple[str, ...] = ()
