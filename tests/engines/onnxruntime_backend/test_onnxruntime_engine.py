"""The ONNX Runtime engine on the CPU: torch's memory, bound and never copied, and what it refuses."""

import gc
import sys
import weakref
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from deepcache_trt.engines.onnxruntime.engine import OnnxRuntimeEngine
from deepcache_trt.errors import BackendError, ShapeError, StoreError
from deepcache_trt.tensors import TensorSpec


@pytest.fixture
def engine(graph: Path) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(graph)


def bound(engine: OnnxRuntimeEngine, batch: int) -> Mapping[str, torch.Tensor]:
    tensors = {"x": torch.rand(batch, 4), "step": torch.tensor([3]), "y": torch.full((batch, 4), torch.nan)}
    for name, tensor in tensors.items():
        engine.bind(name, tensor)
    return tensors


def test_inputs_and_outputs_are_those_of_the_graph(engine: OnnxRuntimeEngine) -> None:
    assert engine.inputs == {
        "x": TensorSpec(name="x", dtype="float32", shape=("batch", 4)),
        "step": TensorSpec(name="step", dtype="int64", shape=(1,)),
    }
    assert engine.outputs == {"y": TensorSpec(name="y", dtype="float32", shape=("batch", 4))}


def test_the_result_is_written_into_the_bound_output(engine: OnnxRuntimeEngine) -> None:
    tensors = bound(engine, 2)
    address = tensors["y"].data_ptr()
    engine.run()
    assert torch.equal(tensors["y"], tensors["x"] * 3)
    assert tensors["y"].data_ptr() == address


def test_inputs_changed_in_place_are_read_by_the_next_run(engine: OnnxRuntimeEngine) -> None:
    tensors = bound(engine, 2)
    engine.run()
    tensors["x"].fill_(2)
    tensors["step"].fill_(5)
    engine.run()
    assert torch.equal(tensors["y"], torch.full((2, 4), 10.0))


def test_one_engines_output_is_the_next_ones_input(graph: Path) -> None:
    first, second = OnnxRuntimeEngine(graph), OnnxRuntimeEngine(graph)
    between = bound(first, 2)
    after = bound(second, 2)
    second.bind("x", between["y"])
    first.run()
    second.run()
    assert torch.equal(after["y"], between["x"] * 3 * 3)


@pytest.mark.parametrize("batches", [(1, 5), (5, 1), (2, 2)])
def test_another_shape_is_bound_anew(engine: OnnxRuntimeEngine, batches: tuple[int, int]) -> None:
    for batch in batches:
        tensors = bound(engine, batch)
        engine.run()
        assert torch.equal(tensors["y"], tensors["x"] * 3)


def test_another_shape_at_the_same_address_is_bound_anew(engine: OnnxRuntimeEngine) -> None:
    tensors = bound(engine, 4)
    engine.run()
    tensors["y"].zero_()
    engine.bind("x", tensors["x"][:2])
    engine.bind("y", tensors["y"][:2])
    engine.run()
    assert torch.equal(tensors["y"], torch.cat([tensors["x"][:2] * 3, torch.zeros(2, 4)]))


def test_a_bound_tensor_stays_alive(engine: OnnxRuntimeEngine) -> None:
    y = bound(engine, 2)["y"]
    engine.bind("x", torch.full((2, 4), 7.0))
    torch.full((2, 4), -1.0)  # would reuse the memory of a tensor that was let go
    engine.run()
    assert torch.equal(y, torch.full((2, 4), 21.0))


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        (
            "x",
            torch.zeros(2, 4, dtype=torch.float16),
            r"x is float16, the engine takes float32; cast it with .*float32",
        ),
        ("step", torch.zeros(1), r"step is float32, the engine takes int64"),
        ("y", torch.zeros(2, 4, dtype=torch.float64), r"y is float64, the engine takes float32"),
        ("x", torch.zeros(2, 5), r"x has shape \[2, 5\], the engine takes x: float32\[batch, 4\]"),
        ("x", torch.zeros(4), r"x has shape \[4\], the engine takes x: float32\[batch, 4\]"),
        ("y", torch.zeros(2, 4, 1), r"y has shape \[2, 4, 1\]"),
        ("x", torch.zeros(4, 2).T, r"x is not contiguous in memory; .*\.contiguous\(\)"),
        ("y", torch.zeros(2, 8)[:, ::2], r"y is not contiguous"),
        ("x", torch.zeros(2, 4, device="meta"), r"x is on meta, the engine runs on cpu; move it with \.to\('cpu'\)"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused_with_its_name(
    engine: OnnxRuntimeEngine, name: str, tensor: torch.Tensor, message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        engine.bind(name, tensor)


def test_another_view_of_bound_memory_is_checked_as_well(engine: OnnxRuntimeEngine) -> None:
    x = torch.rand(4, 4)
    engine.bind("x", x)
    with pytest.raises(ShapeError, match="x is not contiguous"):
        engine.bind("x", x.T)
    with pytest.raises(ShapeError, match="x is int32"):
        engine.bind("x", x.view(torch.int32))


def test_running_with_an_unbound_tensor_is_a_bug(engine: OnnxRuntimeEngine) -> None:
    engine.bind("x", torch.zeros(1, 4))
    with pytest.raises(AssertionError, match=r"unbound: \['step', 'y'\]"):
        engine.run()


def test_a_missing_graph_is_named_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no graph at .*gone\.onnx; build it again"):
        OnnxRuntimeEngine(tmp_path / "gone.onnx")


@pytest.mark.parametrize("content", [b"", b"no graph at all", b"\x08\x0a\x12\x00"])
def test_a_corrupt_graph_is_a_backend_error_of_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(BackendError, match=r"ONNX Runtime cannot run broken\.onnx: ") as caught:
        OnnxRuntimeEngine(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_graph_is_a_backend_error(graph: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(graph.read_bytes()[:-30])
    with pytest.raises(BackendError, match=r"cannot run cut\.onnx"):
        OnnxRuntimeEngine(path)


def test_without_onnxruntime_the_error_says_what_to_install(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendError, match=r"not installed; pip install 'deepcache-trt\[cpu\]'"):
        OnnxRuntimeEngine(graph)


def test_close_lets_go_of_bound_tensors_and_may_be_repeated(engine: OnnxRuntimeEngine) -> None:
    tensors = bound(engine, 2)
    alive = [weakref.ref(tensor) for tensor in tensors.values()]
    engine.close()
    engine.close()
    del tensors
    gc.collect()
    assert [ref() for ref in alive] == [None] * 3
    with pytest.raises(AssertionError):
        engine.run()
