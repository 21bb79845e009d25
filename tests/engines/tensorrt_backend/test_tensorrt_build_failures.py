"""A build with TensorRT-RTX that fails, dies or is interrupted is an error with the reason and leaves nothing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from onnx import helper

from deepcache_trt.engines.profile import Range, ShapeProfile
from deepcache_trt.engines.tensorrt import build as tensorrt_build
from deepcache_trt.errors import BackendError, StoreError
from tests.engines.graphs import Net, by_name, save, spec, square
from tests.engines.tensorrt_backend.rtx_builds import BATCH, assert_nothing_is_left, build, plan_of

pytest.importorskip("tensorrt_rtx", reason="builds with tensorrt-rtx; pip install 'deepcache-trt[rtx]'")


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
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
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
