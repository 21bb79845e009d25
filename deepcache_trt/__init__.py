"""DeepCache, compiled: cached diffusion U-Nets as engines behind ordinary diffusers pipelines."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepcache_trt.pipelines.cached_pipeline import DeepCachePipeline
    from deepcache_trt.pipelines.deepcache_sd_helper import DeepCacheSDHelper

__version__ = "0.1.0"
__all__ = ["DeepCachePipeline", "DeepCacheSDHelper", "__version__"]


def __getattr__(name: str) -> Any:
    # Importing the package stays cheap: torch and diffusers come with the first name that needs them.
    if name == "DeepCachePipeline":
        from deepcache_trt.pipelines.cached_pipeline import DeepCachePipeline

        return DeepCachePipeline
    if name == "DeepCacheSDHelper":
        from deepcache_trt.pipelines.deepcache_sd_helper import DeepCacheSDHelper

        return DeepCacheSDHelper
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
