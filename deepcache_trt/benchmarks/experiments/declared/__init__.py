"""The experiments, one file each; the name of a file is that of its experiment, and it has it as `EXPERIMENT`."""

import pkgutil
from importlib import import_module
from typing import Any

from deepcache_trt.benchmarks.experiments.experiment import Experiment


def experiments() -> dict[str, Experiment[Any]]:
    """All of them, by name."""
    modules = (import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    return {module.EXPERIMENT.name: module.EXPERIMENT for module in modules}
