"""`deepcache-trt doctor`: every backend, whether it works here, and what to install."""

import json
import sys

import pytest

from deepcache_trt.engines import backends
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
    result = run("doctor", "--json")
    rows = json.loads(result.out)
    assert rows == [vars(row) for row in backends.probe_all()]
    assert all(set(row) == {"name", "device", "works", "detail"} for row in rows)
    assert any(row["works"] for row in rows)
