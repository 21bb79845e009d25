"""An empty store."""

from pathlib import Path

import pytest

from deepcache_trt.engines.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")
