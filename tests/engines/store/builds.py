"""What the tests build into a store, and what a build has left in it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepcache_trt.engines.store import Store

# What the manifest of an engine says.
_RANGE = {"min": 1, "opt": 2, "max": 4}
_TENSOR = {"name": "sample", "dtype": "float32", "shape": ["batch", 4, "height", "8*width"]}
DESCRIPTION: dict[str, Any] = {
    "graph": "0" * 20,
    "weights": "1" * 20,
    "model": "digits",
    "component": "unet",
    "dtype": "float32",
    "backend": "onnxruntime",
    "backend_version": "1.30",
    "device": "cpu",
    "inputs": [_TENSOR],
    "outputs": [_TENSOR],
    "profiles": [dict.fromkeys(("batch", "height", "width", "sequence"), _RANGE)],
    "variant": {"name": "full", "consumes": [], "emits": ["tap_0"], "outputs": None},
    "build_options": {"optimization_level": None, "workspace_bytes": None, "refittable": False},
    "check": {"usable": True, "reason": "", "tolerance": 1e-3, "sizes": {"batch": 1}, "relative_error": {"y": 0.0}},
}

ENGINE = {"graph": "abc", "backend": "onnxruntime", "profile": {"batch": [1, 2, 8]}}


class Build:
    """Writes two files and counts."""

    def __init__(self, content: bytes = b"engine") -> None:
        self.content = content
        self.count = 0

    def __call__(self, folder: Path) -> dict[str, Any]:
        self.count += 1
        (folder / "engine.onnx").write_bytes(self.content)
        (folder / "weights-00.safetensors").write_bytes(b"weights")
        return {"model": "digits", "count": self.count}


def leftovers(store: Store) -> list[str]:
    """Every file and folder of the store but its locks."""
    return [str(path.relative_to(store.root)) for path in store.root.rglob("*") if "locks" not in path.parts]


def failing(error: BaseException) -> Callable[[Path], dict[str, Any]]:
    def build(folder: Path) -> dict[str, Any]:
        (folder / "half").write_bytes(b"of it")
        raise error

    return build
