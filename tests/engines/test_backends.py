"""Which backend a name means on a device, and what is said where it means none."""

import dataclasses
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import deepcache_trt
from deepcache_trt.benchmarks.fidelity.digit_reader import DigitReader, to_eight
from deepcache_trt.engines import backends
from deepcache_trt.engines.backend import Backend
from deepcache_trt.errors import BackendError, UnknownNameError
from tests.conftest import BACKENDS_AS_SHIPPED

LOG = "deepcache_trt.engines.backends"


@pytest.fixture(autouse=True)
def _the_order_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_registered", dict(BACKENDS_AS_SHIPPED))


def hide(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)


@pytest.fixture
def no_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "onnxruntime")


INSTALL = "not installed; pip install 'deepcache-trt[cpu]'"


@pytest.mark.parametrize(
    ("missing", "taken", "because"),
    [
        ([], "openvino", ""),
        (["openvino"], "onnxruntime", f"; not openvino: backend 'openvino' is {INSTALL}"),
        (
            ["openvino", "onnxruntime"],
            "torch",
            f"; not openvino: backend 'openvino' is {INSTALL}; not onnxruntime: {INSTALL}",
        ),
    ],
)
def test_auto_on_a_cpu_takes_the_first_that_works_and_the_log_says_why(
    missing: list[str],
    taken: str,
    because: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hide(monkeypatch, *missing)
    with caplog.at_level(logging.INFO, logger=LOG):
        assert backends.resolve("auto", "cpu").name == taken
    [message] = caplog.messages
    assert message.startswith(f"backend {taken} ({backends.find(taken, 'cpu').version()}")
    assert message.endswith(f" on cpu{because}")


@pytest.mark.usefixtures("no_onnxruntime")
def test_a_backend_asked_for_by_name_is_never_replaced() -> None:
    with pytest.raises(BackendError, match=r"'onnxruntime' does not work here: .*pip install 'deepcache-trt\[cpu\]'"):
        backends.resolve("onnxruntime", "cpu")


@pytest.mark.parametrize("name", ["openvino", "onnxruntime", "torch", "torch-compile"])
def test_a_name_means_itself(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger=LOG):
        assert backends.resolve(name, "cpu").name == name
    assert not caplog.messages


@pytest.mark.parametrize(
    ("name", "hint"),
    [("onxruntime", "did you mean 'onnxruntime'"), ("tensorflow", "there are auto, .*onnxruntime.*torch")],
)
def test_an_unknown_name_gets_a_hint(name: str, hint: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown backend '{name}'.*{hint}"):
        backends.resolve(name, "cpu")


def test_a_backend_on_a_device_that_it_does_not_run_on_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "why_no_gpu", lambda: None)
    with pytest.raises(BackendError, match=r"'tensorrt' runs on cuda .* is on cpu; move it with pipe\.to\('cuda'\)"):
        backends.resolve("tensorrt", "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", sorted({each.name for each in backends.OWN if each.compiled} - {"openvino"}))
def test_without_a_gpu_building_ahead_for_another_is_offered(name: str) -> None:
    with pytest.raises(BackendError, match=rf"'{name}' needs an NVIDIA GPU.*--backend tensorrt-rtx --target sm86"):
        backends.resolve(name, "cpu")


def test_only_tensorrt_rtx_builds_for_a_gpu_elsewhere() -> None:
    assert backends.resolve_ahead("auto", "sm86").name == "tensorrt-rtx"
    with pytest.raises(BackendError, match="'onnxruntime' builds for the device that it runs on, not for sm86"):
        backends.resolve_ahead("onnxruntime", "sm86")


@pytest.mark.parametrize("name", ["auto", "torch"])
def test_a_device_that_no_backend_runs_on_names_those_that_there_are(name: str) -> None:
    with pytest.raises(BackendError, match=r"mps.*cpu"):
        backends.resolve(name, "mps")


@pytest.mark.usefixtures("no_onnxruntime")
def test_doctor_asks_every_backend_and_says_what_to_install() -> None:
    rows = {(row.name, row.device): row for row in backends.probe_all()}
    assert set(rows) >= {("torch", "cuda"), ("onnxruntime", "cpu"), ("torch", "cpu")}
    assert not rows["onnxruntime", "cpu"].works
    assert "pip install" in rows["onnxruntime", "cpu"].detail
    assert rows["torch", "cpu"].works


INSTALLED = [each for each in backends.OWN if each.name != "tensorrt"]


@pytest.mark.parametrize("backend", INSTALLED, ids=lambda each: f"{each.name}-{each.device}")
def test_every_backend_has_a_version_for_the_keys_of_its_engines(backend: Backend) -> None:
    assert backend.version().split(".")[0].isdigit()


def test_the_device_of_an_engine_on_a_cpu_is_the_instruction_set() -> None:
    assert backends.find("onnxruntime", "cpu").device_tag() == f"cpu-{platform.machine()}"


def test_an_engine_that_is_built_ahead_belongs_to_its_target() -> None:
    assert backends.find("tensorrt-rtx", "cuda").device_tag("sm86") == "sm86"


@pytest.mark.parametrize(
    ("name", "gpu", "device"),
    [("auto", True, "cuda"), ("torch", True, "cuda"), ("onnxruntime", True, "cuda"), ("torch", False, "cpu")],
)
def test_the_command_takes_the_gpu_where_the_backend_can(
    name: str, gpu: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    assert backends.best_device(name) == device


# Backends of other packages.

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_backend.py"


def install(folder: Path, **entry_points: str) -> dict[str, str]:
    """A package with the example's backend in a folder, and the variables of a process that has it installed."""
    package = folder / "toy_backend-1.0.dist-info"
    package.mkdir(parents=True)
    shutil.copy(EXAMPLE, folder / "toy_backend.py")
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-backend\nVersion: 1.0\n")
    lines = [f"[{backends.ENTRY_POINTS}]", *(f"{name} = {value}" for name, value in entry_points.items())]
    (package / "entry_points.txt").write_text("\n".join(lines))
    paths = [str(folder), str(Path(deepcache_trt.__file__).parents[1])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def command(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deepcache_trt.cli", *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_backend_of_another_package_draws(tmp_path: Path) -> None:
    environment = install(tmp_path / "site", plain="toy_backend:BACKEND")
    rows = json.loads(command(environment, "doctor", "--json").stdout)["backends"]
    assert (rows[-1]["name"], rows[-1]["device"], rows[-1]["works"]) == ("plain", "cpu", True)
    picture = tmp_path / "seven.png"
    drawn = command(
        environment, "generate", "a handwritten seven", "--backend", "plain", "--steps", 8, "--out", picture
    )
    assert (drawn.returncode, drawn.stdout.strip()) == (0, str(picture)), drawn.stderr
    assert DigitReader().read(to_eight(_pixels(picture))).tolist() == [7]
    missing = command({**environment, "PYTHONPATH": ""}, "generate", "seven", "--backend", "plain")
    assert "unknown backend 'plain'" in missing.stderr


def _pixels(picture: Path) -> np.ndarray:
    """[1, 3, H, W] in 0…1."""
    pixels: np.ndarray = np.asarray(Image.open(picture).convert("RGB"), dtype=np.float64).transpose(2, 0, 1)[None] / 255
    return pixels


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("toy_backend:MISSING", "has no attribute 'MISSING'"),
        ("not_there:BACKEND", "No module named 'not_there'"),
        (
            "toy_backend:PlainEngine",
            "is a ABCMeta and no Backend|is a type and no Backend|_ProtocolMeta and no Backend",
        ),
    ],
)
def test_a_broken_backend_of_another_package_is_left_out_and_named(tmp_path: Path, value: str, reason: str) -> None:
    environment = install(tmp_path / "site", broken=value)
    told = command(environment, "doctor", "--json")
    assert told.returncode == 0
    assert "'broken' of another package is left out" in told.stderr
    assert re.search(reason, told.stderr), told.stderr
    assert [row["name"] for row in json.loads(told.stdout)["backends"]] == [backend.name for backend in backends.OWN]


def test_a_second_backend_of_one_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = dataclasses.replace(backends.find("torch", "cpu"), version=lambda: "2")
    with pytest.raises(BackendError, match="there is a backend 'torch' for cpu already; give the new one another name"):
        backends.register(other)
    assert backends.find("torch", "cpu") is not other
