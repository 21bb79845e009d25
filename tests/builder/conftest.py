"""Stores of a test's own that have a graph already."""

from pathlib import Path

import pytest

from deepcache_trt.engines.store import Store
from tests.builder.small_builds import denoiser, text_encoder
from tests.builder.stores import store_with_graph


@pytest.fixture
def store(store_root: Path, tmp_path: Path) -> Store:
    """A store with the graph of the text encoder."""
    return store_with_graph(text_encoder(), store_root, tmp_path / "store")


@pytest.fixture
def denoisers(store_root: Path, tmp_path: Path) -> Store:
    """A store with the graph of the denoiser."""
    return store_with_graph(denoiser(), store_root, tmp_path / "denoisers")
