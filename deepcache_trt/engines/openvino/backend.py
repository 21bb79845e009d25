"""OpenVINO as a backend."""

import functools

from deepcache_trt.engines.backend import ENGINE_GRAPH, Backend, Built, package_version
from deepcache_trt.engines.openvino.engine import OpenVinoEngine
from deepcache_trt.engines.openvino.library import load


def _open(built: Built) -> OpenVinoEngine:
    return OpenVinoEngine(
        built.folder / ENGINE_GRAPH,
        inputs=built.inputs,
        outputs=built.outputs,
        profiles=built.profiles,
        cache=built.cache("engines"),
    )


OPENVINO = Backend(
    name="openvino",
    device="cpu",
    probe=lambda: str(load().__version__),
    version=functools.partial(package_version, "openvino"),
    open=_open,
    packages=("openvino",),
    compiled=True,
    static=True,
    lacks={"fp8": "no CPU has; use int8 there"},
)
