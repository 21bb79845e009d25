"""The check of engines in 8 bits, on backends of this machine."""

import time
from pathlib import Path

import pytest

from deepcache_trt.benchmarks.gpu_check.checks.eight_bits import eight_bits
from deepcache_trt.benchmarks.gpu_check.checks.subject import Subject
from deepcache_trt.benchmarks.gpu_check.rows import Row
from deepcache_trt.engines.store import Store


def checked(backend: str, store: Path) -> Row:
    subject = Subject(backend=backend, device="cpu", model="digits", store=Store(store), until=time.time() + 600)
    try:
        (row,) = eight_bits(subject)
    finally:
        subject.close_session()
    return row


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_engines_in_8_bits_are_timed_beside_the_others_and_are_near_them(backend: str, store_root: Path) -> None:
    row = checked(backend, store_root)
    print(row)
    assert row.status == "pass"
    assert row.figures.keys() == {
        *("relative_error", "limit", "ratio"),
        *(f"{name}{variant}_ms" for name in ("", "int8_") for variant in ("full", "shallow")),
    }
    assert 0 < row.figures["relative_error"]["full"] < row.figures["limit"]


def test_a_backend_without_8_bits_says_so_and_builds_nothing(tmp_path: Path) -> None:
    row = checked("torch", tmp_path)
    assert row.status == "missing"
    assert row.detail.startswith("it runs the model itself")
    assert not list(tmp_path.iterdir())
