"""The two nodes: *Load cached engines* says which, *Apply DeepCache engines* puts them into a MODEL."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.utils
from comfy.patcher_extension import WrappersMP

from deepcache_trt.engines.backends import names
from deepcache_trt.pipelines.engine_options import EngineOptions
from deepcache_trt.progress import Report, shown
from deepcache_trt.runtime.policies import DeepCache

from .engines import KEY, EngineUNet, check_options

_ENGINES = "DEEPCACHE_ENGINES"
_CATEGORY = "deepcache-trt"


@dataclass(frozen=True)
class CachedEngines:
    """Which engines, and how often they compute everything."""

    policy: DeepCache
    options: EngineOptions


class LoadCachedEngines:
    """Which engines a MODEL gets. They are made of its own weights, when the first image is drawn, and kept."""

    CATEGORY = _CATEGORY
    DESCRIPTION = __doc__
    RETURN_TYPES = (_ENGINES,)
    RETURN_NAMES = ("engines",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802  # ComfyUI's name
        """What the node asks for."""
        interval = "one call of the U-Net in so many is full, the others reuse its deep features; 1 caches nothing"
        branch = "the skip connection from which on cached calls compute: 0 is the cheapest, higher ones are closer"
        size = "pixels that engines are built for, as 1024 or 512x768 or 512-1024; empty: as the first image needs"
        return {
            "required": {
                "cache_interval": ("INT", {"default": 3, "min": 1, "max": 100, "tooltip": interval}),
                "cache_branch_id": ("INT", {"default": 0, "min": 0, "max": 63, "tooltip": branch}),
                "backend": (["auto", *names()], {"tooltip": "what runs the engines; auto: the fastest one here"}),
            },
            "optional": {
                "size": ("STRING", {"default": "", "tooltip": size}),
                "store": ("STRING", {"default": "", "tooltip": "the folder of built engines; empty: the usual one"}),
            },
        }

    def load(
        self, cache_interval: int, cache_branch_id: int, backend: str, size: str = "", store: str = ""
    ) -> tuple[CachedEngines]:
        """What was chosen; refuses what no engine can be."""
        policy = DeepCache(cache_interval=cache_interval, cache_branch_id=cache_branch_id)
        options = EngineOptions(backend=backend, size=size.strip() or None, store=store.strip() or None)
        return (CachedEngines(policy, options),)


class ApplyDeepCacheEngines:
    """Runs the U-Net of a MODEL (SD 1.x, SD 2.x, SDXL) on engines that reuse its deep features."""

    CATEGORY = _CATEGORY
    DESCRIPTION = __doc__
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "apply"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        """What the node asks for."""
        return {"required": {"model": ("MODEL",), "engines": (_ENGINES,)}}

    def apply(self, model: Any, engines: CachedEngines) -> tuple[Any]:
        """The MODEL on engines; the one that was given stays as it is."""
        for options in (model.model_options.get("transformer_options", {}), {"wrappers": model.wrappers}):
            check_options(options, model.model)
        unet = EngineUNet(model.model, engines.policy, engines.options, progress=_in_comfyui)
        patched = model.clone()
        for kind, wrapper in ((WrappersMP.DIFFUSION_MODEL, unet), (WrappersMP.OUTER_SAMPLE, unet.sampling)):
            patched.remove_wrappers_with_key(kind, KEY)
            patched.add_wrapper_with_key(kind, KEY, wrapper)
        return (patched,)


@contextmanager
def _in_comfyui(stage: str) -> Iterator[Report]:
    """A stage of a build on the node that waits for it, and on ComfyUI's terminal."""
    bar = comfy.utils.ProgressBar(100)
    bar.update_absolute(0)  # also where ComfyUI hears that it was told to stop

    with shown(stage) as on_terminal:

        def report(*, done: float, total: float, detail: str = "") -> None:
            bar.update_absolute(round(100 * done / total))
            on_terminal(done=done, total=total, detail=detail)

        yield report
    bar.update_absolute(100)
