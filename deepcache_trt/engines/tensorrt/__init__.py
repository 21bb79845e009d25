"""TensorRT and TensorRT-RTX: one engine code for both."""

from deepcache_trt.engines.tensorrt.backend import TENSORRT, TENSORRT_RTX

__all__ = ["TENSORRT", "TENSORRT_RTX"]
