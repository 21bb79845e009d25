"""`deepcache-trt doctor`: every backend, whether it works here and what to install, the store, and a picture."""

import json
import socket
import sys
from getpass import getuser
from pathlib import Path
from typing import Any

import pytest

from deepcache_trt.engines import backends
from deepcache_trt.engines.backend import Backend
from deepcache_trt.engines.manifest import MANIFEST
from deepcache_trt.engines.store import Store
from tests.commands.command_line import Run


def test_doctor_prints_every_backend(run: Run) -> None:
    result = run("doctor")
    assert result.code == 0
    assert all(name in result.out for name in backends.names())


def test_doctor_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setenv("COLUMNS", "200")
    assert "pip install 'deepcache-trt[cpu]'" in run("doctor").out


def test_doctor_as_json_says_what_works_and_why_not(run: Run) -> None:
    report = json.loads(run("doctor", "--json").out)
    assert report["backends"] == [vars(row) for row in backends.probe_all()]
    assert all(set(row) == {"name", "device", "works", "detail"} for row in report["backends"])
    assert any(row["works"] for row in report["backends"])
    assert report["self_test"] is None
    assert "torch " in report["environment"]["packages"]


def test_doctor_tells_of_the_store(run: Run, tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number in range(2):
        artefact = store.get("graphs", {"n": number}, lambda folder: {"class": "X"})
    (artefact.folder / MANIFEST).write_text("{")
    report = json.loads(run("doctor", "--json", "--store", tmp_path).out)["store"]
    assert report["artefacts"] == 2
    assert len(report["damaged"]) == 1
    assert artefact.key in report["damaged"][0]
    assert "1 damaged" in run("doctor", "--store", tmp_path).out


def test_what_doctor_prints_is_nobodys_business(run: Run, tmp_path: Path) -> None:
    """It is pasted into reports."""
    out = run("doctor", "--json", "--store", tmp_path).out
    assert str(tmp_path) not in out
    assert str(Path.home()) not in out
    assert socket.gethostname() not in out
    assert getuser() == "root" or getuser() not in out


@pytest.mark.parametrize("works", [True, False])
def test_the_self_test_draws_on_each_backend(
    run: Run, store_root: Path, monkeypatch: pytest.MonkeyPatch, works: bool
) -> None:
    only = [backend for backend in backends.every() if (backend.name, backend.device) == ("torch", "cpu")]
    findings = [backends.probe(backend) for backend in only]
    monkeypatch.setattr(backends, "probe_all", lambda: findings)
    if not works:

        def fails(self: Backend, *_: Any, **__: Any) -> Any:
            raise RuntimeError("it does not run, in /home/someone/engines")

        monkeypatch.setattr("deepcache_trt.runtime.session.Session.run", fails)
    result = run("doctor", "--self-test", "--json", "--store", store_root)
    (row,) = json.loads(result.out)["self_test"]
    assert row["works"] is works
    assert result.code == (0 if works else 1)
    assert ("differs by" in row["detail"]) is works
    assert "/home/someone" not in row["detail"]
