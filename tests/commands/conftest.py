"""A store with engines, which commands list and draw with."""

import sys
from pathlib import Path

import pytest

from deepcache_trt import cli


@pytest.fixture(scope="session")
def built(store_root: Path) -> Path:
    """A store with the engines of `digits`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["deepcache-trt", "build", "--model", "digits", "--store", str(store_root)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert ended.value.code == 0
    return store_root
