"""deepcache-trt in ComfyUI: cached engines for the U-Net of a MODEL."""

from .nodes import ApplyDeepCacheEngines, LoadCachedEngines

NODE_CLASS_MAPPINGS = {
    "DeepCacheTRTLoadCachedEngines": LoadCachedEngines,
    "DeepCacheTRTApplyEngines": ApplyDeepCacheEngines,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "DeepCacheTRTLoadCachedEngines": "Load cached engines",
    "DeepCacheTRTApplyEngines": "Apply DeepCache engines",
}

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
