"""Pipeline classes by name: ours, and those of diffusers."""

from collections.abc import Iterable
from importlib import import_module
from typing import Any

# Where ours are: diffusers looks for classes in itself alone.
_OURS = ("deepcache_trt.models.definitions.ldm", "deepcache_trt.models.definitions.dit")


def own_pipeline_class(name: str) -> Any:
    """A class that is defined here; None: there is none."""
    return _find(name, _OURS)


def pipeline_class(name: str) -> Any:
    """A class of ours or of diffusers; None: there is none."""
    return _find(name, (*_OURS, "diffusers"))


def _find(name: str, modules: Iterable[str]) -> Any:
    from diffusers import DiffusionPipeline

    for module in modules:
        found = getattr(import_module(module), name, None)
        if isinstance(found, type) and issubclass(found, DiffusionPipeline):
            return found
    return None
