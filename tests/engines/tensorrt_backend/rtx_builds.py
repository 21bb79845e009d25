"""How the tests build plans with TensorRT-RTX, for a GPU that need not be there."""

from pathlib import Path
from typing import Any

from deepcache_trt.engines.backend import BuildOptions
from deepcache_trt.engines.profile import Range, ShapeProfile
from deepcache_trt.engines.tensorrt.build import build_engine_plan
from deepcache_trt.progress import logged
from tests.engines.graphs import square

SMALL = square(8, 8, 8)
BATCH = ShapeProfile(batch=Range(min=1, opt=2, max=4))


def build(graph: Path, inputs: Any, profiles: Any = (SMALL,), **changes: Any) -> dict[str, Any]:
    arguments = {
        "backend": "tensorrt-rtx",
        "target": "sm86",
        "options": BuildOptions(),
        "timing_cache": None,
        "progress": logged,
        "stage": "building",
    }
    return build_engine_plan(graph, plan_of(graph), inputs=inputs, profiles=profiles, **{**arguments, **changes})


def plan_of(graph: Path) -> Path:
    return graph.with_suffix(".plan")


def assert_nothing_is_left(graph: Path) -> None:
    assert not [file.name for file in graph.parent.iterdir() if ".plan" in file.name]
