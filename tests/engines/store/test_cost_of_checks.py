"""What is checked at a start costs less than a twentieth of it."""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deepcache_trt import DeepCachePipeline
from deepcache_trt.builder import shared_session
from deepcache_trt.engines import caches, manifest, passing, store, upkeep
from deepcache_trt.models import calls
from deepcache_trt.pipelines import cached_pipeline

ROUNDS = 9


def start(root: Path) -> float:
    """Seconds from a folder to the first picture, with engines that are in the store."""
    started = time.perf_counter()
    pipe: Any = DeepCachePipeline.from_pretrained("digits", backend="openvino", store=root)
    pipe.set_progress_bar_config(disable=True)
    pipe("a handwritten seven", num_inference_steps=10)
    took = time.perf_counter() - started
    shared_session._holders.clear()
    return took


def as_it_lies(path: Path) -> manifest.Manifest:
    """A manifest as it lies there."""
    said = json.loads(path.read_text())
    return manifest.Manifest(about=said["about"], files=said["files"], created=said["created"])


@pytest.mark.slow
def test_checks_cost_less_than_a_twentieth_of_a_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    start(tmp_path)
    built = sorted(tmp_path.rglob("manifest.json"))
    checked, unchecked = [], []
    for _ in range(ROUNDS):
        checked.append(start(tmp_path))
        with monkeypatch.context() as without:
            for module in (store, passing, upkeep):
                without.setattr(module, "read", as_it_lies)
            without.setattr(store, "is_unchanged", lambda *_, **__: True)
            without.setattr(caches, "is_sealed", lambda *_, **__: True)
            without.setattr(calls, "_looked_at", lambda _: iter(()))
            without.setattr(cached_pipeline, "check_arguments", lambda *_, **__: None)
            unchecked.append(start(tmp_path))
    assert statistics.median(checked) < 10
    cost = statistics.median(checked) / statistics.median(unchecked) - 1
    said = f"{cost:+.1%} of {statistics.median(unchecked):.2f} s, medians of {ROUNDS} in turn"
    record_property("cost of the checks of a start", said)
    assert sorted(tmp_path.rglob("manifest.json")) == built, "nothing was built in any of these"
    assert cost < 0.05
