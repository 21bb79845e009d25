"""Real plans from TensorRT-RTX, whose compiler needs no GPU once it is told which one to build for."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper

from deepcache_trt.engines.backend import BuildOptions
from deepcache_trt.engines.profile import Range, ShapeProfile
from deepcache_trt.engines.tensorrt import build as tensorrt_build
from deepcache_trt.engines.tensorrt.build import build_engine_plan
from deepcache_trt.errors import BackendError, StoreError, UnknownNameError
from deepcache_trt.progress import logged
from tests.engines.graphs import Net, by_name, save, spec, square

trt = pytest.importorskip("tensorrt_rtx", reason="builds with tensorrt-rtx; pip install 'deepcache-trt[rtx]'")

SMALL, LARGE = square(8, 8, 8), square(16, 32, 64)
BATCH = ShapeProfile(batch=Range(min=1, opt=2, max=4))


def build(graph: Path, inputs: Any, profiles: Any = (SMALL,), **changes: Any) -> dict[str, Any]:
    arguments = {
        "backend": "tensorrt-rtx",
        "target": "sm86",
        "options": BuildOptions(),
        "timing_cache": None,
        "progress": logged,
        "stage": "building",
    }
    return build_engine_plan(graph, plan_of(graph), inputs=inputs, profiles=profiles, **{**arguments, **changes})


def plan_of(graph: Path) -> Path:
    return graph.with_suffix(".plan")


def assert_nothing_is_left(graph: Path) -> None:
    assert not [file.name for file in graph.parent.iterdir() if ".plan" in file.name]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_graph_becomes_one_plan_for_all_profiles(tmp_path: Path, dtype: str) -> None:
    net = Net(tmp_path / "net.onnx", dtype=dtype)
    facts = build(net.path, net.inputs, [SMALL, LARGE])
    assert plan_of(net.path).stat().st_size == facts["plan_bytes"] > 10_000
    assert facts["seconds"] > 0
    expected = {
        "tensorrt": trt.__version__,
        "strongly_typed": True,
        "built_for": "sm86",
        "layers": facts["layers"],
        "profiles": 2,
        "optimization_level": 3,
        "workspace_bytes": None,
        "refittable": False,
    }
    assert expected.items() <= json.loads(json.dumps(facts)).items()
    assert facts["layers"] >= 5
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.onnx", "net.plan", "net.weights"]


def test_the_weights_are_in_the_plan(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="matmul")]
    weights = {"w": np.random.default_rng(0).standard_normal((512, 1024)).astype("float32")}
    inputs, outputs = [spec("x", "float32", "batch", 512)], [spec("y", "float32", "batch", 1024)]
    graph = save(tmp_path / "g.onnx", nodes, inputs, outputs, weights)
    assert build(graph, by_name(*inputs), [BATCH])["plan_bytes"] > weights["w"].nbytes


def test_the_options_reach_tensorrt(tmp_path: Path) -> None:
    net = Net(tmp_path / "net.onnx")
    facts = build(net.path, net.inputs, options=BuildOptions(optimization_level=1, workspace_bytes=1 << 28))
    assert (facts["optimization_level"], facts["workspace_bytes"]) == (1, 1 << 28)


def test_too_little_workspace_is_an_error_with_the_cure(tmp_path: Path) -> None:
    net = Net(tmp_path / "net.onnx")
    with pytest.raises(BackendError, match=r"cannot build net\.onnx: .*no tactics .*; allow more workspace, or"):
        build(net.path, net.inputs, options=BuildOptions(workspace_bytes=1 << 10))
    assert_nothing_is_left(net.path)


def test_a_build_tells_how_far_it_is(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []

    @contextmanager
    def progress(stage: str) -> Iterator[Any]:
        assert stage == "building"
        yield lambda **report: told.append(report)

    net = Net(tmp_path / "net.onnx", depth=20)
    build(net.path, net.inputs, progress=progress)
    assert len(told) > 5
    assert all(0 <= report["done"] <= report["total"] == 1 for report in told)
    assert told[-1]["done"] > 0.5
    assert all(report["detail"] for report in told)


def test_what_tensorrt_says_is_logged_and_printed_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    net = Net(tmp_path / "net.onnx")
    with caplog.at_level(logging.DEBUG, "deepcache_trt"):
        build(net.path, net.inputs)
    assert any("Int64 binding" in record.message and record.levelno == logging.INFO for record in caplog.records)
    assert any("Total Weights Memory" in record.message for record in caplog.records)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
    assert capfd.readouterr() == ("", "")


def test_nothing_is_logged_that_nobody_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    net = Net(tmp_path / "net.onnx")
    with caplog.at_level(logging.WARNING, "deepcache_trt"):
        build(net.path, net.inputs)
    assert not caplog.records


# What cannot be built.


def test_an_unknown_operator_is_reported_by_node(tmp_path: Path) -> None:
    x, y = spec("x", "float32", "batch", 4), spec("y", "float32", "batch", 4)
    graph = save(tmp_path / "g.onnx", [helper.make_node("Warp", ["x"], ["y"], name="/up/warp")], [x], [y])
    with pytest.raises(BackendError, match=r"cannot take g\.onnx: node '/up/warp' \(Warp\): .*Plugin not found"):
        build(graph, by_name(x), [BATCH])
    assert_nothing_is_left(graph)


def test_a_concat_of_two_dtypes_is_reported_by_node(tmp_path: Path) -> None:
    half, single = spec("half", "float16", "batch", 4), spec("single", "float32", "batch", 4)
    node = helper.make_node("Concat", ["single", "half"], ["y"], name="/add_embedding/Concat", axis=1)
    graph = save(tmp_path / "g.onnx", [node], [half, single], [spec("y", "float32", "batch", 8)])
    with pytest.raises(BackendError, match=r"node '/add_embedding/Concat' \(Concat\): .*of type Half .*Float") as error:
        build(graph, by_name(half, single), [BATCH])
    assert "cudaError" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no graph at all"])
def test_a_file_that_is_no_graph_is_named(tmp_path: Path, content: bytes) -> None:
    graph = tmp_path / "g.onnx"
    graph.write_bytes(content)
    with pytest.raises(BackendError, match=r"g\.onnx"):
        build(graph, {}, [BATCH])
    assert_nothing_is_left(graph)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    net = Net(tmp_path / "net.onnx")
    (tmp_path / "net.weights").unlink()
    with pytest.raises(BackendError, match=r"cannot take net\.onnx: .*Failed to import initializer: w0"):
        build(net.path, net.inputs)


def test_a_missing_graph_is_named_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no graph at .*gone\.onnx; build it again"):
        build(tmp_path / "gone.onnx", {})


def test_a_profile_that_the_graph_cannot_take_is_an_error_in_tensorrts_words(tmp_path: Path) -> None:
    """Two inputs of one axis in the graph, of two sizes in the profile."""
    x, z = spec("x", "float32", "batch", "height"), spec("z", "float32", "batch", "width")
    node = helper.make_node("Add", ["x", "z"], ["y"], name="add")
    graph = save(tmp_path / "g.onnx", [node], [x, z], [spec("y", "float32", "batch", "height")])
    profile = ShapeProfile(height=Range(min=8, opt=8, max=8), width=Range(min=6, opt=6, max=6))
    with pytest.raises(BackendError, match=r"TensorRT cannot build g\.onnx: .*add"):
        build(graph, by_name(x, z), [profile])
    assert_nothing_is_left(graph)


def test_a_fixed_size_that_the_profile_contradicts_is_an_error(tmp_path: Path) -> None:
    net = Net(tmp_path / "net.onnx")
    wrong = {**net.inputs, "sample": spec("sample", "float32", "batch", "width", "height", "width")}
    with pytest.raises(BackendError, match=r"cannot build net\.onnx: "):
        build(net.path, wrong, [square(9, 9, 9)])
    assert_nothing_is_left(net.path)


def fake_child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    """Let another program stand for the compiler: what a compiler does that dies cannot be had on demand."""
    (tmp_path / "fake_compiler.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(tensorrt_build, "_CHILD", "fake_compiler")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", r"net\.onnx was killed .* want of memory: .*close"),
        ("import os; os.abort()", r"build of net\.onnx ended with SIGABRT: it said nothing"),
        ("raise RuntimeError('libnvinfer is broken')", r"ended with status 1: RuntimeError: libnvinfer is broken"),
        ("pass", r"ended with status 0: it said nothing"),
    ],
    ids=["killed", "aborted", "failed", "silent"],
)
def test_a_compiler_that_dies_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    net = Net(tmp_path / "net.onnx")
    plan = plan_of(net.path)
    fake_child(monkeypatch, tmp_path, f"open({str(plan) + '.part'!r}, 'w').write('half a plan')\n{code}")
    with pytest.raises(BackendError, match=message):
        build(net.path, net.inputs)
    assert_nothing_is_left(net.path)


def test_a_failed_build_leaves_the_plan_that_was_there(tmp_path: Path) -> None:
    net = Net(tmp_path / "net.onnx")
    plan_of(net.path).write_bytes(b"the last one")
    (tmp_path / "net.weights").unlink()
    with pytest.raises(BackendError):
        build(net.path, net.inputs)
    assert plan_of(net.path).read_bytes() == b"the last one"


CTRL_C = """
import sys
from contextlib import contextmanager
from pathlib import Path
from tests.engines.graphs import Net, square
from deepcache_trt.engines.backend import BuildOptions
from deepcache_trt.engines.tensorrt.build import build_engine_plan

@contextmanager
def progress(stage):
    yield lambda **report: print(report["detail"], flush=True)

net = Net(Path(sys.argv[1]), depth=4000)
build_engine_plan(net.path, net.path.with_suffix(".plan"), backend="tensorrt-rtx", inputs=net.inputs,
           profiles=[square(8, 64, 96)], target="sm86", options=BuildOptions(),
           timing_cache=None, progress=progress, stage="building")
print("BUILT")
"""


@pytest.fixture
def long_build(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of the one step that TensorRT-RTX takes most of the time for."""
    script = tmp_path / "script.py"
    script.write_text(CTRL_C)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, script, tmp_path / "net.onnx"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        assert any("refit" in line for line in process.stdout), process.stderr
        yield process
        process.kill()


def compilers(graph: Path) -> list[int]:
    """The processes that are compiling this graph."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes()
        except OSError:  # it has just ended
            continue
        if b"tensorrt.compiler" in arguments and str(graph).encode() in arguments:
            found.append(int(folder.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the compiler in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "killed"])
def test_a_build_ends_at_once_with_whoever_asked_for_it(
    long_build: subprocess.Popen[str], tmp_path: Path, number: signal.Signals
) -> None:
    graph = tmp_path / "net.onnx"
    assert compilers(graph)
    started = time.monotonic()
    long_build.send_signal(number)
    output, errors = long_build.communicate(timeout=30)
    assert "BUILT" not in output
    assert number == signal.SIGKILL or errors.strip().endswith("KeyboardInterrupt")
    while compilers(graph):
        assert time.monotonic() - started < 5
        time.sleep(0.05)
    assert time.monotonic() - started < 5
    assert not plan_of(graph).exists()
    if number != signal.SIGKILL:
        assert_nothing_is_left(graph)


# What is refused before anything starts.


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("target", ["sm68", "86", "current", "none", "a5000", ""])
def test_an_unknown_gpu_is_refused_with_those_there_are(tmp_path: Path, target: str) -> None:
    net = Net(tmp_path / "net.onnx")
    with pytest.raises(UnknownNameError, match=rf"cannot build for '{target}'.*; it can for .*sm86, sm89"):
        build(net.path, net.inputs, target=target)


@pytest.mark.usefixtures("no_gpu")
def test_building_for_the_gpu_at_hand_without_one_offers_to_build_ahead(tmp_path: Path) -> None:
    net = Net(tmp_path / "net.onnx")
    with pytest.raises(BackendError, match=r"torch sees none; .*--backend tensorrt-rtx --target sm86"):
        build(net.path, net.inputs, target=None)


def test_a_refittable_plan_cannot_be_built_ahead(tmp_path: Path) -> None:
    net = Net(tmp_path / "net.onnx")
    with pytest.raises(
        BackendError, match=r"refittable engine plan can only be built on the GPU .*'sm86'; leave the target"
    ):
        build(net.path, net.inputs, options=BuildOptions(refittable=True))


def test_without_polygraphy_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_build, "find_spec", lambda name: None)
    net = Net(tmp_path / "net.onnx")
    with pytest.raises(BackendError, match=r"polygraphy, which is not installed; pip install"):
        build(net.path, net.inputs)


@pytest.mark.parametrize(
    ("visible", "current", "expected"), [("", 0, "0"), ("", 1, "1"), ("3,5", 1, "5"), ("GPU-a,GPU-b", 0, "GPU-a")]
)
def test_the_compiler_sees_torchs_current_gpu(
    monkeypatch: pytest.MonkeyPatch, visible: str, current: int, expected: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
    assert tensorrt_build._environment("tensorrt", None)["CUDA_VISIBLE_DEVICES"] == expected
    assert tensorrt_build._environment("tensorrt-rtx", "sm86")["CUDA_VISIBLE_DEVICES"] == visible
