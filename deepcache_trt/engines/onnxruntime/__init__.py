"""ONNX Runtime on the CPU and on NVIDIA GPUs, with its CUDA or its TensorRT provider."""

from deepcache_trt.engines.onnxruntime.backend import CPU, CUDA, TENSORRT

__all__ = ["CPU", "CUDA", "TENSORRT"]
