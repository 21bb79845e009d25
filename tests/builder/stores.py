"""Stores of their own for tests that look at what a build leaves, with the graphs of all tests: exports take long."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from deepcache_trt.builder.component import Component
from deepcache_trt.builder.graphs import graph_artefact
from deepcache_trt.engines.store import Store
from deepcache_trt.progress import logged


def store_with_graph(component: Component, shared: Path, root: Path) -> Store:
    """A store at `root` that has the graph of `component` and nothing else."""
    return store_with_graphs([component], shared, root)


def store_with_graphs(components: Iterable[Component], shared: Path, root: Path) -> Store:
    """A store at `root` that has the graphs of the components and nothing else."""
    (root / "graphs").mkdir(parents=True)
    for component in components:
        kept = graph_artefact(component, Store(shared), logged)
        shutil.copytree(kept.folder, root / "graphs" / kept.key, copy_function=os.link)
    return Store(root)


def states(folder: Path) -> dict[str, tuple[int, int]]:
    """Which file each is and when it was last written."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and "locks" not in file.parts]
    return {str(file.relative_to(folder)): (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def kept(store: Store, kind: str) -> list[str]:
    return sorted(folder.name for folder in (store.root / kind).glob("*"))


def assert_nothing_half_built(store: Store) -> None:
    assert not kept(store, "engines")
    assert not list((store.root / "tmp").glob("*"))
