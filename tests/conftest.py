"""What every test shares: one thread for each test process, and one store of built graphs for all of them."""

import os
from pathlib import Path

import pytest

# Two test processes with two threads each spend their time waiting for one another.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def store_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that all test processes of one run share, so that each architecture is exported once."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "store"


@pytest.fixture(autouse=True)
def _no_store_of_the_user(store_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPCACHE_TRT_STORE", str(store_root))
