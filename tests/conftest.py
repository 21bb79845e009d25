"""What every test shares: one thread for each process, one store of graphs for all, one meaning of `auto`."""

import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from deepcache_trt import cli
from deepcache_trt.builder import shared_session
from deepcache_trt.engines import backends
from deepcache_trt.engines.store import Store
from tests.commands.command_line import Result, Run

# The same examples in every run, and others in a soak: what a run finds is of the change that it was run for.
settings.register_profile("steady", derandomize="SOAK" not in os.environ)
settings.load_profile("steady")

# Two test processes with two threads each spend their time waiting for one another.
os.environ["OMP_NUM_THREADS"] = "1"

# A shell's background jobs ignore Ctrl-C, and so would the processes that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# OpenVINO, which `auto` tries first on a CPU, compiles for seconds for each model and shape: here it comes last.
BACKENDS_AS_SHIPPED = dict(backends._registered)
backends._registered["openvino", "cpu"] = backends._registered.pop(("openvino", "cpu"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What tests have counted with `record_property`, summed up: the table that `make soak` ends with."""
    if "SOAK" not in os.environ:
        return
    counted: Counter[str] = Counter()
    terminalreporter.section("what was tried, and held")
    for report in terminalreporter.stats.get("passed", ()):
        for name, value in report.user_properties:
            if isinstance(value, int):
                counted[name] += value
            else:
                terminalreporter.write_line(f"{name}: {value}")
    for name, value in counted.items():
        terminalreporter.write_line(f"{name}: {value:,}")


@pytest.fixture(scope="session")
def store_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that all test processes of one run share, so that each architecture is exported once."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "store"


@pytest.fixture(autouse=True)
def _no_store_of_the_user(store_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPCACHE_TRT_STORE", str(store_root))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of what this test has built so far; other processes may build in the same store meanwhile."""
    kinds: list[str] = []
    build = Store._build

    def recorded(store: Store, kind: str, *args: Any) -> Any:
        kinds.append(kind)
        return build(store, kind, *args)

    monkeypatch.setattr(Store, "_build", recorded)
    return kinds


@pytest.fixture(autouse=True)
def _sessions_of_their_own(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test compares with a fresh pipeline must not be on the very engines of that pipeline."""
    if "shared_sessions" not in request.fixturenames:
        monkeypatch.setattr(shared_session, "open_sessions", set)


@pytest.fixture
def shared_sessions() -> None:
    """Pipelines with the same model share their engines, as they do outside of tests."""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process: a process of its own takes seconds to import torch."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["deepcache-trt", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return Result(code=ended.value.code, out=captured.out, err=captured.err)

    return run
