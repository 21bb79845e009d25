"""TensorRT and TensorRT-RTX as backends."""

from functools import partial
from typing import Any

from deepcache_trt.engines.backend import Backend, BuildOptions, Built, Order, why_no_gpu
from deepcache_trt.engines.tensorrt import versions
from deepcache_trt.engines.tensorrt.build import build_engine_plan, check_target
from deepcache_trt.engines.tensorrt.engine import TensorRTEngine
from deepcache_trt.errors import BackendError

ENGINE_PLAN = "engine.plan"


def _probe(name: str) -> str:
    installed = _version(name)
    missing = why_no_gpu()
    if missing and name == TENSORRT_RTX.name:
        raise BackendError(f"{installed} builds for another GPU here (--target sm86), but {missing}")
    if missing:
        raise BackendError(missing)
    return installed


def _version(name: str) -> str:
    version: str = versions.load(name).__version__
    return version


def _is_there(name: str) -> bool:
    try:
        versions.load(name)
    except BackendError:
        return False
    return True


def _build(name: str, order: Order) -> dict[str, Any]:
    built = build_engine_plan(
        order.graph,
        order.folder / ENGINE_PLAN,
        backend=name,
        inputs=order.inputs,
        profiles=order.profiles,
        target=order.target,
        options=order.options,
        timing_cache=order.cache("timings"),
        progress=order.progress,
        stage=order.stage,
    )
    return {"built": built}


def _open(name: str, built: Built) -> TensorRTEngine:
    return TensorRTEngine(
        built.folder / ENGINE_PLAN,
        backend=name,
        inputs=built.inputs,
        outputs=built.outputs,
        profiles=built.profiles,
        runtime_cache=built.cache("kernels"),
    )


def _check(name: str, target: str | None, options: BuildOptions) -> None:
    check_target(name, target, options)


TENSORRT = Backend(
    name="tensorrt",
    device="cuda",
    probe=partial(_probe, "tensorrt"),
    version=partial(_version, "tensorrt"),
    build=partial(_build, "tensorrt"),
    open=partial(_open, "tensorrt"),
    check=partial(_check, "tensorrt"),
    packages=("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "polygraphy", "cuda-python"),
    compiled=True,
    options=True,
    refits=True,
)

TENSORRT_RTX = Backend(
    name="tensorrt-rtx",
    device="cuda",
    probe=partial(_probe, "tensorrt-rtx"),
    version=partial(_version, "tensorrt-rtx"),
    build=partial(_build, "tensorrt-rtx"),
    open=partial(_open, "tensorrt-rtx"),
    check=partial(_check, "tensorrt-rtx"),
    packages=("tensorrt-rtx", "tensorrt-rtx-cu12", "tensorrt-rtx-cu13", "polygraphy", "cuda-python"),
    compiled=True,
    options=True,
    refits=True,
    ahead=partial(_is_there, "tensorrt-rtx"),
)
