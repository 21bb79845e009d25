"""Compiling with OpenVINO: the cache of compiled models, what cannot be compiled, and the threads it may use."""

import gc
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from onnx import helper

from deepcache_trt.engines.caches import is_sealed
from deepcache_trt.engines.openvino import compiled, library
from deepcache_trt.engines.openvino.engine import OpenVinoEngine
from deepcache_trt.errors import BackendError, StoreError
from tests.engines.graphs import Net, by_name, save, spec, square
from tests.engines.openvino_backend.net_engines import check, exactly, opened
from tests.engines.tensors import tensors_for

# The cache.


def blobs(folder: Path) -> list[Path]:
    """What was compiled, without the seals."""
    return sorted(folder.glob("*.blob"))


def test_a_compiled_model_is_loaded_from_its_cache(net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "deep" / "cache"
    opened(net, cache=cache).close()
    monkeypatch.setattr(compiled, "compile_graph", lambda graph, shapes: pytest.fail("compiled again"))
    check(opened(net, cache=cache), net, tensors_for(net, 2, 8, 8))
    assert [file.suffix for file in blobs(cache)] == [".blob"]


def test_each_profile_is_an_entry_of_the_cache(net: Net, tmp_path: Path) -> None:
    engine = opened(net, square(2, 4, 8), square(2, 16, 32), cache=tmp_path)
    for side in (8, 32, 8):
        check(engine, net, tensors_for(net, 2, side, side))
    assert len(blobs(tmp_path)) == 2


def test_a_cache_that_cannot_be_written_costs_no_engine(
    net: Net, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    check(opened(net, cache=tmp_path / "file" / "cache"), net, tensors_for(net, 2, 8, 8))
    assert "was not saved to" in caplog.text


def test_what_is_loaded_needs_neither_the_file_nor_its_pages(net: Net, tmp_path: Path) -> None:
    engine = opened(net, cache=tmp_path)
    (blob,) = blobs(tmp_path)
    blob.unlink()
    gc.collect()
    check(engine, net, tensors_for(net, 2, 8, 8))


@pytest.mark.parametrize("kept", [0, 100, -10], ids=["empty", "header", "end"])
def test_a_truncated_cache_is_compiled_anew(net: Net, tmp_path: Path, kept: int) -> None:
    opened(net, cache=tmp_path).close()
    (blob,) = blobs(tmp_path)
    data = blob.read_bytes()
    blob.write_bytes(data[:kept])
    check(opened(net, cache=tmp_path), net, tensors_for(net, 2, 8, 8))
    assert blob.read_bytes()[:100] == data[:100]


def test_a_cache_with_any_byte_flipped_is_compiled_anew(
    net: Net, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    opened(net, cache=tmp_path).close()
    (blob,) = blobs(tmp_path)
    data = blob.read_bytes()
    for place in range(0, len(data), len(data) // 20):
        damaged = bytearray(data)
        damaged[place] ^= 0xFF
        blob.write_bytes(damaged)
        check(opened(net, cache=tmp_path), net, tensors_for(net, 2, 8, 8))
        assert is_sealed(blob)
    record_property("bytes flipped, each noticed", 20)


# Errors.


def test_a_missing_graph_is_named_with_the_cure(net: Net, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no graph at .*gone\.onnx; build it again"):
        OpenVinoEngine(tmp_path / "gone.onnx", inputs=net.inputs, outputs=net.outputs, profiles=[square(4, 8, 16)])


@pytest.mark.parametrize("content", [b"", b"no graph at all", b"\x08\x0a\x12\x00"])
def test_a_corrupt_graph_is_a_backend_error_of_one_line(net: Net, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(BackendError, match=r"OpenVINO cannot compile broken\.onnx: Unable to read") as caught:
        OpenVinoEngine(path, inputs=net.inputs, outputs=net.outputs, profiles=[square(4, 8, 16)])
    assert "\n" not in str(caught.value)


def test_an_operator_that_openvino_does_not_have_is_named(tmp_path: Path) -> None:
    nodes = [helper.make_node("Mystery", ["x"], ["y"], domain="nowhere")]
    x, y = spec("x", "float32", "batch"), spec("y", "float32", "batch")
    path = save(tmp_path / "mystery.onnx", nodes, [x], [y])
    with pytest.raises(BackendError, match=r"mystery\.onnx: .*Mystery"):
        OpenVinoEngine(path, inputs=by_name(x), outputs=by_name(y), profiles=[exactly(batch=1)])


def test_missing_weights_are_named(tmp_path: Path) -> None:
    net = Net(tmp_path / "net.onnx")
    (tmp_path / "net.weights").unlink()
    with pytest.raises(BackendError, match=r"cannot compile net\.onnx: .*net\.weights"):
        opened(net)


def test_without_openvino_the_error_says_what_to_install(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendError, match=r"not installed; pip install 'deepcache-trt\[cpu\]'"):
        opened(net)


@pytest.mark.parametrize(("told", "cores", "threads"), [(1, 4, 1), (4, 4, None), (8, 4, None), (1, None, None)])
def test_threads_are_openvinos_choice_unless_torch_was_told_fewer(
    told: int, cores: int | None, threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: told)
    monkeypatch.setattr("psutil.cpu_count", lambda logical: cores)
    assert library.threads() == threads
