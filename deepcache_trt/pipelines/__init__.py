"""Cached pipelines. `DeepCache<Name>` is the cached subclass of each pipeline class `<Name>` of diffusers."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name.startswith("DeepCache") and name.endswith("Pipeline") and name != "DeepCachePipeline":
        import diffusers

        from deepcache_trt.pipelines.cached_pipeline import cached_class

        base = getattr(diffusers, name.removeprefix("DeepCache"), None)
        if isinstance(base, type) and issubclass(base, diffusers.DiffusionPipeline):
            return cached_class(base)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
