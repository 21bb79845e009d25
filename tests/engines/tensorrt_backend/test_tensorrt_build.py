"""Real plans from TensorRT-RTX, whose compiler needs no GPU once it is told which one to build for."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import NodeProto, helper

from deepcache_trt.engines.backend import BuildOptions
from deepcache_trt.engines.tensorrt import build as tensorrt_build
from deepcache_trt.engines.tensorrt.quantized_layers import facts as facts_of_layers
from deepcache_trt.errors import BackendError, UnknownNameError
from tests.engines.graphs import Net, by_name, save, spec, square
from tests.engines.tensorrt_backend.rtx_builds import BATCH, SMALL, assert_nothing_is_left, build, plan_of

trt = pytest.importorskip("tensorrt_rtx", reason="builds with tensorrt-rtx; pip install 'deepcache-trt[rtx]'")

LARGE = square(16, 32, 64)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_graph_becomes_one_plan_for_all_profiles(tmp_path: Path, dtype: str) -> None:
    net = Net(tmp_path / "net.onnx", dtype=dtype)
    facts = build(net.path, net.inputs, [SMALL, LARGE])
    assert plan_of(net.path).stat().st_size == facts["plan_bytes"] > 10_000
    assert facts["seconds"] > 0
    expected = {
        "tensorrt": trt.__version__,
        "strongly_typed": True,
        "builder_flags": ["REQUIRE_USER_ALLOCATION"],  # without it no CUDA graph can be captured; and TF32 is off
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


def product(activation: str, name: str, result: str) -> list[NodeProto]:
    """A layer whose weight is in 8 bits."""
    return [
        helper.make_node("DequantizeLinear", [f"{name}.int8", "weights"], [f"{name}.dequantized"], axis=1),
        helper.make_node("MatMul", [activation, f"{name}.dequantized"], [result], name=f"product_{name}"),
    ]


def test_a_quantized_layer_whose_activation_is_left_in_float_is_told(tmp_path: Path) -> None:
    rounded = [
        helper.make_node("QuantizeLinear", ["x", "activations"], ["x.int8"], output_dtype=3),
        helper.make_node("DequantizeLinear", ["x.int8", "activations"], ["x.dequantized"]),
    ]
    inputs, outputs = [spec("x", "float16", "batch", 64)], [spec("y", "float16", "batch", 64)]
    whole = np.random.default_rng(0).integers(-127, 127, (2, 64, 64)).astype(np.int8)
    weights = {
        "first.int8": whole[0],
        "second.int8": whole[1],
        "weights": np.full(64, 1e-3, np.float16),
        "activations": np.float16(1e-2),
    }
    nodes = [*rounded, *product("x.dequantized", "first", "h"), *product("h", "second", "y")]
    graph = save(tmp_path / "g.onnx", nodes, inputs, outputs, weights, opset=21)
    found = build(graph, by_name(*inputs), [BATCH])
    assert found["quantized_layers"] == 2
    assert found["not_in_8_bits"] == ["second.int8"]


def test_of_a_graph_without_quantized_layers_nothing_is_told_of_them(tmp_path: Path) -> None:
    net = Net(tmp_path / "net.onnx")
    assert not {"quantized_layers", "not_in_8_bits"} & build(net.path, net.inputs).keys()


def test_of_a_builder_that_tells_nothing_of_its_layers_nothing_is_told(tmp_path: Path) -> None:
    assert facts_of_layers(Net(tmp_path / "net.onnx").path, "") == {}
