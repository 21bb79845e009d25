"""The folder of ComfyUI's nodes, as ComfyUI imports it: a package of its own, wherever it lies."""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = Path(__file__).parents[3] / "integrations" / "comfyui"
_NAME = "deepcache_comfyui"


def module(name: str) -> Any:
    """One module of it, without the others, of which some import ComfyUI."""
    package = sys.modules.setdefault(_NAME, ModuleType(_NAME))
    package.__path__ = [str(FOLDER)]
    return importlib.import_module(f"{_NAME}.{name}")
