"""Real architectures at real size, with seeded weights, on two cores."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

CLI = [sys.executable, "-m", "deepcache_trt.cli"]

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
    return subprocess.run(command, check=True, capture_output=True, text=True, env=_environment(store)).stdout


def _environment(store: Path) -> dict[str, str]:
    environment = {**os.environ, "DEEPCACHE_TRT_STORE": str(store)}
    environment.pop("OMP_NUM_THREADS", None)
    return environment


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
    _run(*CLI, "build", "--model", model, "--component", "unet", "--random-weights", "--dtype", dtype, store=tmp_path)
    found = json.loads(_run(*CLI, "inspect", "--json", store=tmp_path))
    (graph,) = found["graphs"]
    assert len(graph["taps"]) == taps
    full, shallow = sorted(found["engines"], key=lambda e: e["variant"]["name"])
    assert shallow["macs"]["weights"] < full["macs"]["weights"] / 5
    print(model, graph["parity"])


# TensorRT-RTX's plans for an RTX A5000.


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a model's plans may take and are."""

    pixels: int
    seconds: float  # from nothing to the plans of the U-Net
    gibibytes: float  # at most at a time, of all processes together
    plan_gigabytes: float  # the full U-Net's: its weights, and little more
    dtypes: dict[str, str] = field(default_factory=dict)  # of the parts beside the U-Net


EXPECTED = {
    "sd15": Expected(
        pixels=512,
        seconds=240,
        gibibytes=12,
        plan_gigabytes=1.72,
        dtypes={"text_encoder": "float16", "vae": "float16"},
    ),
    "sdxl": Expected(
        pixels=1024,
        seconds=300,
        gibibytes=20,
        plan_gigabytes=5.14,
        dtypes={"text_encoder": "float16", "text_encoder_2": "float16", "vae": "float32"},
    ),
}

OTHER_WEIGHTS = """
import sys
from deepcache_trt.engines.tensorrt import engine as tensorrt
from deepcache_trt.engines.store import Store, default_root
from deepcache_trt.builder.engines import build_pieces
from deepcache_trt.builder.target import Target
from deepcache_trt.builder.model_source import random_components
from deepcache_trt.builder.shapes import shapes_from_text
from deepcache_trt.runtime.policies.deepcache import DeepCache
(unet,) = random_components(sys.argv[1], dtype="float16", parts=["unet"], seed=1)
shapes = shapes_from_text([sys.argv[2]], [])
target = Target(backend=tensorrt.TENSORRT_RTX, store=Store(default_root()), capability="sm86", shapes=shapes)
print(*(artefact.folder for artefact in build_pieces(unet, DeepCache(), target).values()), sep="\\n")
"""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A command that has ended well."""

    out: str
    seconds: float
    gibibytes: float


def _measure(*command: str | Path, store: Path) -> Measured:
    """Run a command. Its memory is that of all its processes at one moment, pages that they share counted once."""
    started, most = time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env=_environment(store))
        root = psutil.Process(process.pid)
        while process.poll() is None:
            most = max(most, _memory(root))
            time.sleep(0.2)
        seconds = time.perf_counter() - started
        out.seek(0)
        err.seek(0)
        assert process.returncode == 0, err.read()
        return Measured(out=out.read(), seconds=seconds, gibibytes=most / 2**30)


def _memory(root: psutil.Process) -> int:
    total = 0
    with suppress(psutil.Error):  # a process that ends while it is looked at
        for process in (root, *root.children(recursive=True)):
            total += process.memory_full_info().pss
    return total


def _build(model: str, store: Path, *options: str) -> Measured:
    size = str(EXPECTED[model].pixels)
    common = ["--backend", "tensorrt-rtx", "--target", "sm86", "--size", size, "--dtype", "float16"]
    return _measure(*CLI, "build", "--model", model, "--random-weights", *common, *options, store=store)


def _states(folder: Path) -> dict[str, tuple[int, int]]:
    files = [file for file in folder.rglob("*") if file.is_file() and "locks" not in file.parts]
    return {str(file): (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A store with the plans of a model's U-Net, and what it took to build them from nothing."""

    model: str
    store: Path
    took: Measured

    def engines(self) -> list[dict[str, Any]]:
        engines: list[dict[str, Any]] = json.loads(_run(*CLI, "inspect", "--json", store=self.store))["engines"]
        return engines


@pytest.fixture(scope="module", params=list(EXPECTED))
def planned(request: pytest.FixtureRequest) -> Iterator[Planned]:
    pytest.importorskip("tensorrt_rtx")
    with tempfile.TemporaryDirectory() as folder:  # tens of gigabytes, which pytest would keep
        store = Path(folder)
        yield Planned(model=request.param, store=store, took=_build(request.param, store, "--component", "unet"))


def test_the_plans_of_a_real_unet_take_minutes_and_less_memory_than_a_desktop_has(planned: Planned) -> None:
    expected = EXPECTED[planned.model]
    print(f"{planned.model}: {planned.took.seconds:.0f} s, {planned.took.gibibytes:.1f} GiB")
    assert planned.took.seconds < expected.seconds
    assert planned.took.gibibytes < expected.gibibytes


def test_the_shallow_plan_of_a_real_unet_is_a_few_per_cent_of_the_full_one(planned: Planned) -> None:
    built = {e["variant"]["name"]: e["built"] for e in planned.engines() if e["component"] == "unet"}
    print(planned.model, built)
    full, shallow = built["full"], built["shallow"]
    assert full["plan_bytes"] == pytest.approx(EXPECTED[planned.model].plan_gigabytes * 1e9, rel=0.1)
    assert shallow["plan_bytes"] < full["plan_bytes"] * 0.03
    assert {full["built_for"], shallow["built_for"]} == {"sm86"}
    assert full["strongly_typed"]


def test_a_second_build_of_a_real_model_writes_nothing_and_takes_seconds(planned: Planned) -> None:
    before = _states(planned.store)
    again = _build(planned.model, planned.store, "--component", "unet")
    print(f"{planned.model}: {again.seconds:.0f} s")
    assert again.out == planned.took.out
    assert _states(planned.store) == before
    assert again.seconds < 30


def test_the_parts_beside_a_real_unet_become_plans(planned: Planned) -> None:
    """The activations of SDXL's VAE overflow half precision."""
    took = _build(planned.model, planned.store)
    print(f"{planned.model}, the other parts: {took.seconds:.0f} s, {took.gibibytes:.1f} GiB")
    found = {engine["component"]: engine for engine in planned.engines() if engine["component"] != "unet"}
    assert {part: engine["dtype"] for part, engine in found.items()} == EXPECTED[planned.model].dtypes
    assert all(engine["built"]["built_for"] == "sm86" for engine in found.values())
    assert found["vae"]["built"]["profiles"] == 2  # whole latents, and tiles


@pytest.mark.parametrize("target", ["sm86", "sm89"])
def test_plans_in_8_bits_are_little_more_than_half_as_large(planned: Planned, target: str) -> None:
    options = ["--component", "unet", "--precision", "int8", "--quantize", "all", "--target", target]
    took = _build(planned.model, planned.store, *options)
    print(f"{planned.model} in 8 bits for {target}: {took.seconds:.0f} s, {took.gibibytes:.1f} GiB")
    (full,) = [
        engine["built"]
        for engine in planned.engines()
        if engine["variant"]["name"] == "full"
        and engine.get("precision") == "int8"
        and engine["built"]["built_for"] == target
    ]
    print(full)
    assert full["plan_bytes"] < EXPECTED[planned.model].plan_gigabytes * 1e9 * 0.6
    assert full["quantized_layers"] > 200
    assert full["not_in_8_bits"] == []


def test_a_second_model_of_the_architecture_needs_no_export(planned: Planned) -> None:
    graphs = _states(planned.store / "graphs")
    command = [sys.executable, "-c", OTHER_WEIGHTS, planned.model, str(EXPECTED[planned.model].pixels)]
    took = _measure(*command, store=planned.store)
    print(f"{planned.model}, other weights: {took.seconds:.0f} s, {took.gibibytes:.1f} GiB")
    assert _states(planned.store / "graphs") == graphs
    folders = took.out.split()
    assert len(folders) == 2
    assert not set(folders) & {line.rpartition(" in ")[2] for line in planned.took.out.splitlines()}
    assert took.seconds < planned.took.seconds
