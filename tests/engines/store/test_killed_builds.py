"""A build may be killed at any moment: what it leaves never loads, and the next build works.

A few moments in every run; as many as SOAK_KILLS says in `make soak`.
"""

import multiprocessing
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deepcache_trt.builder.engines import build_pieces
from deepcache_trt.builder.open_session import open_session
from deepcache_trt.builder.quantized.quantized_component import quantized
from deepcache_trt.builder.quantized.quantizing import ALL
from deepcache_trt.builder.quantized.seeded import seeded_calibration
from deepcache_trt.engines.store import Store
from deepcache_trt.engines.upkeep import collect, held
from deepcache_trt.export.precision import INT8
from deepcache_trt.runtime.policies.deepcache import DeepCache
from tests.builder.small_builds import ONE, denoiser, on_cpu

KILLS = int(os.environ.get("SOAK_KILLS", "4"))

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.builder.small_builds", "onnxruntime", "torch.onnx"])


WAYS = ("whole", "segments", "int8")


def build(root: Path, way: str) -> None:
    component, target = denoiser(), on_cpu(Store(root), segments=way == "segments")
    if way == "int8":
        component = quantized(component, DeepCache(), INT8, (ALL,), seeded_calibration(component))
    build_pieces(component, DeepCache(), target)


def killed_after(seconds: float, root: Path, way: str) -> bool:
    """Whether a build was killed; False: it was done before."""
    process = _FORKS.Process(target=build, args=(root, way))
    process.start()
    process.join(seconds)
    was_running = process.is_alive()
    process.kill()
    process.join()
    return was_running


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_what_a_killed_build_leaves_never_loads_and_the_next_build_works(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    dice, kills = random.Random(0), 0
    for warm in (False, True):  # the first one waits for the imports of all
        started = time.monotonic()
        assert not killed_after(600, tmp_path / f"whole {warm}", "whole")
        whole = time.monotonic() - started
    for number in range(KILLS):
        root = tmp_path / str(number)
        kills += killed_after(dice.uniform(0, whole), root, WAYS[number % len(WAYS)])
        store = Store(root)
        for each in held(root):
            store.check(each.kind, each.key, thoroughly=True)
        if number % 8 == 0:
            session = open_session(denoiser(), DeepCache(), on_cpu(store), sizes=ONE)
            assert set(session.engines) == {"full", "shallow"}
            session.close()
            for left in (root / "tmp").glob("*"):
                os.utime(left, (0, 0))
            store.remove_abandoned()
            assert not list((root / "tmp").glob("*"))
            assert not list(collect(root))
    record_property("builds killed, nothing of them loaded", kills)
    assert kills > KILLS // 2
