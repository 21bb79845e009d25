"""PyTorch: the model itself as an engine, eager, as the reference for every other backend, or compiled."""

from deepcache_trt.engines.torch.backend import COMPILED_CPU, COMPILED_CUDA, EAGER_CPU, EAGER_CUDA

__all__ = ["COMPILED_CPU", "COMPILED_CUDA", "EAGER_CPU", "EAGER_CUDA"]
