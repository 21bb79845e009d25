"""Profiles of squares, for which ONNX Runtime has TensorRT build engines."""

from deepcache_trt.engines.profile import Range, ShapeProfile


def squares(batch: int, best: int) -> ShapeProfile:
    pixels = Range(min=8, opt=best, max=128)
    return ShapeProfile(batch=Range(min=1, opt=batch, max=batch), height=pixels, width=pixels)
