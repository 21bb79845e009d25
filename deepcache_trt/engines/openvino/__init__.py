"""OpenVINO: graphs compiled for the CPU, on torch's own memory."""

from deepcache_trt.engines.openvino.backend import OPENVINO

__all__ = ["OPENVINO"]
