"""Pipeline classes by name and by what they draw from: ours, and those of diffusers."""

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


def plain_class(pipe: Any) -> Any:
    """The class of diffusers, or of ours beside it, that a pipeline is of, cached or not."""
    return getattr(pipe, "_plain_class", None) or type(pipe)


# What pipelines draw from, beside prompts: nothing, a picture, a picture and a mask.
TEXT, IMAGE, INPAINT = TASKS = ("text2img", "img2img", "inpaint")


def class_for_task(task: str, given: Any, *, controlled: bool = True) -> Any:
    """The class of diffusers for a task, on the models of another class; None: there is none.

    Args:
        task: one of `TASKS`.
        given: a class of diffusers.
        controlled: whether it may want the ControlNets that `given` has.
    """
    from diffusers.pipelines import auto_pipeline

    classes = {
        TEXT: auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING,
        IMAGE: auto_pipeline.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
        INPAINT: auto_pipeline.AUTO_INPAINT_PIPELINES_MAPPING,
    }
    kinds = (kind for of_task in classes.values() for kind, each in of_task.items() if each is given)
    kind = next(kinds, "")
    return classes[task].get(kind if controlled else kind.replace("-controlnet", ""))


def _find(name: str, modules: Iterable[str]) -> Any:
    from diffusers import DiffusionPipeline

    for module in modules:
        found = getattr(import_module(module), name, None)
        if isinstance(found, type) and issubclass(found, DiffusionPipeline):
            return found
    return None
