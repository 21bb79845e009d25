"""TensorRT and TensorRT-RTX as backends."""

from functools import partial
from typing import Any

from deepcache_trt.engines.backend import Backend, Built, Order, why_no_gpu
from deepcache_trt.engines.tensorrt import versions
from deepcache_trt.engines.tensorrt.build import build_engine_plan, check_target
from deepcache_trt.engines.tensorrt.engine import TensorRTEngine
from deepcache_trt.errors import BackendError

ENGINE_PLAN = "engine.plan"

# Counted on whenever a plan of the same graph, options and version is built in another way, as with flags that every
# build sets: what was built before is then not taken for it.
_WAY = 2


def _probe(name: str, builds_ahead: bool) -> str:
    installed = _version(name)
    missing = why_no_gpu()
    if missing and builds_ahead:
        raise BackendError(f"{installed} builds for another GPU here (--target sm86), but {missing}")
    if missing:
        raise BackendError(missing)
    remark = versions.check_gpu(versions.load(name))
    return f"{installed} ({remark})" if remark else installed


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


def _backend(name: str, *, builds_ahead: bool) -> Backend:
    return Backend(
        name=name,
        device="cuda",
        probe=partial(_probe, name, builds_ahead),
        version=lambda: f"{_version(name)}-{_WAY}",
        build=partial(_build, name),
        open=partial(_open, name),
        check=partial(check_target, name),
        packages=(name, f"{name}-cu12", f"{name}-cu13", "polygraphy", "cuda-python"),
        compiled=True,
        options=True,
        refits=True,
        ahead=partial(_is_there, name) if builds_ahead else None,
    )


TENSORRT = _backend("tensorrt", builds_ahead=False)
TENSORRT_RTX = _backend("tensorrt-rtx", builds_ahead=True)
