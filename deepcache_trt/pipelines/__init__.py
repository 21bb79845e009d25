"""Cached pipelines. `DeepCache<Name>` is the cached subclass of each pipeline class `<Name>` of diffusers and ours."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name.startswith("DeepCache") and name.endswith("Pipeline") and name != "DeepCachePipeline":
        from deepcache_trt.models.definitions.pipelines import pipeline_class
        from deepcache_trt.pipelines.cached_pipeline import cached_class

        base = pipeline_class(name.removeprefix("DeepCache"))
        if base is not None:
            return cached_class(base)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
