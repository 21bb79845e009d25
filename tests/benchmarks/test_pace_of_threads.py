"""What threads would gain from engines of their own."""

import sys

import pytest

from deepcache_trt.benchmarks import threads


def test_three_ways_are_timed_on_each_backend(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--backends", "onnxruntime", "--steps", "2", "--images", "2", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", ["threads", *arguments])
    threads.main()
    printed = capsys.readouterr().out
    assert "2 steps, medians of 1 in turn" in printed
    for way in (threads.ALONE, threads.SHARED, threads.OWN):
        assert printed.count(f"| onnxruntime | {way} |") == 1
