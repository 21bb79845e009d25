"""Real architectures at real size, with seeded weights, on two cores."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

EXPORT = """
import resource, sys, time
from deepcache_trt.export.trace import onnx_from_config
from deepcache_trt.models.catalogue import CATALOGUE
unet = CATALOGUE["sdxl"].parts["unet"]
model_class = unet.model_class()
started = time.perf_counter()
onnx_from_config(model_class, unet.config, dtype="float16")
print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""


def _run(*command: str | Path, store: Path) -> str:
    environment = {**os.environ, "DEEPCACHE_TRT_STORE": str(store)}
    environment.pop("OMP_NUM_THREADS", None)
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def test_sdxl_exports_in_90_seconds_and_1_5_gigabytes(tmp_path: Path) -> None:
    seconds, gigabytes = map(float, _run(sys.executable, "-c", EXPORT, store=tmp_path).split())
    print(f"{seconds:.0f} s, {gigabytes:.2f} GB")
    assert seconds < 90
    assert gigabytes < 1.5


@pytest.mark.parametrize(
    ("model", "dtype", "taps"),
    [("ddpm-cifar10", "float32", 12), ("sd15", "float32", 12), ("sd21", "float32", 12), ("sdxl", "float16", 9),
     ("svd", "float16", 12)],
)  # fmt: skip
def test_a_catalogue_model_builds_with_random_weights(model: str, dtype: str, taps: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deepcache_trt.cli"]
    _run(
        *command, "build", "--model", model, "--component", "unet", "--random-weights", "--dtype", dtype, store=tmp_path
    )
    found = json.loads(_run(*command, "inspect", "--json", store=tmp_path))
    (graph,) = found["graphs"]
    assert len(graph["taps"]) == taps
    full, shallow = sorted(found["engines"], key=lambda e: e["variant"]["name"])
    assert shallow["macs"]["weights"] < full["macs"]["weights"] / 5
    print(model, graph["parity"])
