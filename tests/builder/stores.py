"""Stores of their own for tests that look at what a build leaves, with the graphs of all tests: exports take long."""

from pathlib import Path

from deepcache_trt.builder.component import Component
from deepcache_trt.builder.graphs import graph_artefact
from deepcache_trt.engines.store import Store
from deepcache_trt.progress import logged


def store_with_graph(component: Component, shared: Path, root: Path) -> Store:
    """A store at `root` that has the graph of `component` and nothing else."""
    kept = graph_artefact(component, Store(shared), logged)
    (root / "graphs").mkdir(parents=True)
    (root / "graphs" / kept.key).symlink_to(kept.folder)
    return Store(root)
