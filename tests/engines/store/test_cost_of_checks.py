"""What is checked at a start costs less than a twentieth of it."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deepcache_trt import DeepCachePipeline
from deepcache_trt.builder import shared_session
from deepcache_trt.engines import caches, manifest
from deepcache_trt.models import calls
from deepcache_trt.pipelines import cached_pipeline

ROUNDS = 9


def start(store: Path) -> float:
    """Seconds from a folder to the first picture, with engines that are in the store."""
    started = time.perf_counter()
    pipe: Any = DeepCachePipeline.from_pretrained("digits", backend="openvino", store=store)
    pipe.set_progress_bar_config(disable=True)
    pipe("a handwritten seven", num_inference_steps=10)
    took = time.perf_counter() - started
    shared_session._holders.clear()
    return took


@pytest.mark.slow
def test_checks_cost_less_than_a_twentieth_of_a_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    start(tmp_path)
    checked, unchecked = [], []
    for _ in range(ROUNDS):
        checked.append(start(tmp_path))
        with monkeypatch.context() as without:
            for module, name in ((manifest, "is_unchanged"), (caches, "is_unchanged"), (caches, "is_sealed")):
                without.setattr(module, name, lambda *_, **__: True)
            without.setattr("deepcache_trt.engines.store.is_unchanged", lambda *_, **__: True)
            without.setattr(manifest, "_check_form", lambda *_: None)
            without.setattr(manifest, "_hash_of", lambda said: said)
            without.setattr(calls, "_looked_at", lambda _: iter(()))
            without.setattr(cached_pipeline, "check_arguments", lambda *_, **__: None)
            unchecked.append(start(tmp_path))
    cost = statistics.median(checked) / statistics.median(unchecked) - 1
    said = f"{cost:+.1%} of {statistics.median(unchecked):.2f} s, medians of {ROUNDS} in turn"
    record_property("cost of the checks of a start", said)
    assert cost < 0.05
