"""What is checked at a start costs less than a twentieth of it."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

ROUNDS = 7


def as_it_lies(path: Path) -> Any:
    """A manifest, of which nothing is checked."""
    from deepcache_trt.engines.manifest import Manifest

    said = json.loads(path.read_text())
    return Manifest(about=said["about"], files=said["files"], created=said["created"])


UNCHECKED: dict[str, Any] = {
    **{f"deepcache_trt.engines.{module}.read": as_it_lies for module in ("store", "passing", "upkeep")},
    "deepcache_trt.engines.store.is_unchanged": lambda *_, **__: True,
    "deepcache_trt.engines.caches.is_sealed": lambda *_, **__: True,
    "deepcache_trt.models.calls._looked_at": lambda _: iter(()),
    "deepcache_trt.models.calls._check_looked_up": lambda *_: None,
    "deepcache_trt.pipelines.cached_pipeline.check_arguments": lambda *_, **__: None,
}


def start(root: str, *, checked: bool) -> float:
    """Seconds from importing the package to a first picture, with engines that are in the store."""
    started = time.perf_counter()
    from deepcache_trt import DeepCachePipeline

    with ExitStack() as stack:
        for name, instead in () if checked else UNCHECKED.items():
            stack.enter_context(mock.patch(name, instead))
        pipe: Any = DeepCachePipeline.from_pretrained("digits", backend="openvino", store=root)
        pipe.set_progress_bar_config(disable=True)
        pipe("a handwritten seven", num_inference_steps=10)
    return time.perf_counter() - started


def in_a_process(root: Path, *, checked: bool) -> float:
    command = [sys.executable, __file__, str(root), *(["checked"] if checked else [])]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(ran.stdout.splitlines()[-1])


@pytest.mark.slow
def test_checks_cost_less_than_a_twentieth_of_a_start(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    in_a_process(tmp_path, checked=True)
    built = sorted(tmp_path.rglob("manifest.json"))
    took: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(ROUNDS):
        for checked, seconds in took.items():
            seconds.append(in_a_process(tmp_path, checked=checked))
    with_them, without = (statistics.median(took[checked]) for checked in (True, False))
    cost = with_them / without - 1
    record_property("cost of the checks of a start", f"{cost:+.1%} of {without:.2f} s, medians of {ROUNDS} in turn")
    assert sorted(tmp_path.rglob("manifest.json")) == built, "nothing was built in any of these"
    assert cost < 0.05


if __name__ == "__main__":
    print(start(sys.argv[1], checked="checked" in sys.argv[2:]))
