"""What the tests build: the smallest models, for each kind of backend; a plan of TensorRT-RTX takes half a second."""

from typing import Any

import pytest

from deepcache_trt.builder.component import Component, from_architecture
from deepcache_trt.builder.engines import build_pieces
from deepcache_trt.builder.target import Target
from deepcache_trt.engines.onnxruntime import CPU
from deepcache_trt.engines.openvino import OPENVINO
from deepcache_trt.engines.store import Artefact, Store
from deepcache_trt.engines.tensorrt import TENSORRT_RTX
from deepcache_trt.engines.torch import COMPILED_CPU
from deepcache_trt.runtime.policies.deepcache import DeepCache
from tests import tiny

needs_rtx = pytest.mark.skipif(
    not pytest.importorskip("importlib.util").find_spec("tensorrt_rtx"),
    reason="builds with tensorrt-rtx; pip install 'deepcache-trt[rtx]'",
)

ONE = {"batch": 1}


def text_encoder(seed: int = 0, **config: Any) -> Component:
    model_class, own = tiny.PARTS["clip"]
    name = "tiny" if seed == 0 else f"fine-tune {seed}"
    return from_architecture(model_class, {**own, **config}, name=name, part="text_encoder", dtype="float32", seed=seed)


def denoiser(seed: int = 0) -> Component:
    model_class, config = tiny.ARCHITECTURES["ddpm"]
    return from_architecture(model_class, config, name="tiny", part="unet", dtype="float32", seed=seed)


def ahead(store: Store, capability: str = "sm86", **changes: Any) -> Target:
    """TensorRT-RTX for a GPU elsewhere."""
    return Target(backend=TENSORRT_RTX, store=store, capability=capability, **changes)


def on_cpu(store: Store, **changes: Any) -> Target:
    return Target(backend=CPU, store=store, **changes)


def openvino(store: Store, **changes: Any) -> Target:
    return Target(backend=OPENVINO, store=store, **changes)


def compiled_torch(store: Store, **changes: Any) -> Target:
    return Target(backend=COMPILED_CPU, store=store, **changes)


def engines_for(store: Store, sizes: dict[str, int], **changes: Any) -> Artefact:
    return build_pieces(text_encoder(), DeepCache(), ahead(store, **changes), sizes=sizes)["full"]
