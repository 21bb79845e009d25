"""The ONNX Runtime engine on a GPU: what the CPU computes, in torch's memory and on torch's streams."""

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from deepcache_trt.engines.onnxruntime.engine import OnnxRuntimeEngine
from deepcache_trt.engines.onnxruntime.session import TensorRtProvider
from deepcache_trt.errors import BackendError, ShapeError
from tests.engines.onnxruntime_backend.square_profiles import squares
from tests.engines.tensors import bind_all, by_onnxruntime


def gpu(provider: str) -> pytest.MarkDecorator:
    usable = torch.cuda.is_available() and provider in onnxruntime.get_available_providers()
    return pytest.mark.skipif(not usable, reason=f"needs a GPU and onnxruntime-gpu's {provider}")


needs_cuda = gpu("CUDAExecutionProvider")


@pytest.fixture(scope="module")
def convolution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = conv(x) · step where keep, else 0, through a reshape that is computed from the shape of x."""
    path = tmp_path_factory.mktemp("onnx") / "conv.onnx"
    weights = np.random.default_rng(0).standard_normal((4, 4, 3, 3), dtype=np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "weights"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Slice", ["shape", "zero", "two"], ["head"]),
        helper.make_node("Concat", ["head", "rest"], ["flat_shape"], axis=0),
        helper.make_node("Reshape", ["c", "flat_shape"], ["flat"]),
        helper.make_node("Cast", ["step"], ["factor"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["flat", "factor"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "shape"], ["z"]),
        helper.make_node("Where", ["keep", "z", "nothing"], ["y"]),
    ]
    constants = {"zero": [0], "two": [2], "rest": [-1]}
    initializers = [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()]
    initializers += [
        numpy_helper.from_array(weights, "weights"),
        numpy_helper.from_array(np.array([0], np.float32), "nothing"),
    ]
    shape: list[str | int] = ["batch", 4, "height", "width"]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("step", TensorProto.INT64, [1]),
        helper.make_tensor_value_info("keep", TensorProto.BOOL, ["batch", 1, 1, 1]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)]
    opset = [helper.make_opsetid("", 18)]
    described = helper.make_graph(nodes, "conv", inputs, outputs, initializers)
    onnx.save(helper.make_model(described, opset_imports=opset, ir_version=10), path)
    return path


def gpu_tensors(batch: int, size: int) -> dict[str, torch.Tensor]:
    tensors = {
        "x": torch.rand(batch, 4, size, size),
        "step": torch.tensor([3]),
        "keep": (torch.arange(batch) % 2 == 0).reshape(batch, 1, 1, 1),
        "y": torch.full((batch, 4, size, size), torch.nan),
    }
    return {name: tensor.cuda() for name, tensor in tensors.items()}


@needs_cuda
def test_the_gpu_computes_what_the_cpu_does_at_every_shape_with_and_without_a_graph(convolution: Path) -> None:
    engine = OnnxRuntimeEngine(convolution, device="cuda")
    shapes = [gpu_tensors(2, 16), gpu_tensors(3, 24)]
    for tensors in (shapes[0], shapes[1], shapes[0]):
        bind_all(engine, tensors)
        for step in range(4):  # plain, captured, replayed, replayed
            tensors["x"].copy_(torch.rand_like(tensors["x"]))
            tensors["step"].fill_(step)
            engine.run()
            torch.testing.assert_close(
                tensors["y"].cpu(), by_onnxruntime(convolution, tensors, "y"), rtol=1e-4, atol=1e-4
            )


@needs_cuda
def test_a_replay_gives_the_same_bits_as_a_plain_run(convolution: Path) -> None:
    engine = OnnxRuntimeEngine(convolution, device="cuda")
    tensors = gpu_tensors(2, 16)
    bind_all(engine, tensors)
    results = []
    for _ in range(4):
        tensors["y"].fill_(torch.nan)
        engine.run()
        results.append(tensors["y"].clone())
    assert all(torch.equal(result, results[0]) for result in results)


@needs_cuda
def test_a_graph_is_not_replayed_for_other_memory(convolution: Path) -> None:
    engine = OnnxRuntimeEngine(convolution, device="cuda")
    first, second = gpu_tensors(2, 16), gpu_tensors(2, 16)
    for tensors in (first, first, first, second, second, second, first):
        bind_all(engine, tensors)
        first["y"].zero_()
        second["y"].zero_()
        engine.run()
        torch.testing.assert_close(tensors["y"].cpu(), by_onnxruntime(convolution, tensors, "y"), rtol=1e-4, atol=1e-4)
        assert not (second if tensors is first else first)["y"].any()


@needs_cuda
def test_work_is_ordered_on_whichever_stream_is_current(convolution: Path) -> None:
    engine = OnnxRuntimeEngine(convolution, device="cuda")
    tensors = gpu_tensors(2, 16)
    bind_all(engine, tensors)
    torch.cuda.synchronize()
    for _ in range(4):
        with torch.cuda.stream(torch.cuda.Stream()):
            torch.cuda._sleep(20_000_000)  # about ten milliseconds, in which an unordered run would read the old x
            tensors["x"].add_(1)
            engine.run()
            result = tensors["y"].clone()
            torch.cuda.current_stream().synchronize()
        torch.testing.assert_close(result.cpu(), by_onnxruntime(convolution, tensors, "y"), rtol=1e-4, atol=1e-4)


@needs_cuda
def test_a_capture_from_outside_is_refused(convolution: Path) -> None:
    engine = OnnxRuntimeEngine(convolution, device="cuda")
    tensors = gpu_tensors(2, 16)
    bind_all(engine, tensors)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        tensors["x"].add_(1)
        with pytest.raises(BackendError, match=r"CUDA graphs of its own .* run it outside"):
            engine.run()
    engine.run()
    torch.testing.assert_close(tensors["y"].cpu(), by_onnxruntime(convolution, tensors, "y"), rtol=1e-4, atol=1e-4)


@needs_cuda
def test_memory_of_the_cpu_is_refused_on_a_gpu(convolution: Path) -> None:
    engine = OnnxRuntimeEngine(convolution, device="cuda")
    with pytest.raises(ShapeError, match=r"step is on cpu, the engine runs on cuda; move it with \.to\('cuda'\)"):
        engine.bind("step", torch.tensor([3]))


@needs_cuda
def test_close_on_a_gpu_waits_for_the_work(convolution: Path) -> None:
    engine = OnnxRuntimeEngine(convolution, device="cuda")
    tensors = gpu_tensors(2, 16)
    bind_all(engine, tensors)
    engine.run()
    engine.close()
    engine.close()
    torch.testing.assert_close(tensors["y"].cpu(), by_onnxruntime(convolution, tensors, "y"), rtol=1e-4, atol=1e-4)


@gpu("TensorrtExecutionProvider")
@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is None, reason="needs tensorrt")
def test_tensorrt_computes_what_the_cpu_does_and_keeps_its_engines(convolution: Path, tmp_path: Path) -> None:
    wanted = TensorRtProvider(cache=tmp_path, inputs=OnnxRuntimeEngine(convolution).inputs, profiles=[squares(3, 16)])
    kept = []
    for _ in range(2):
        engine = OnnxRuntimeEngine(convolution, device="cuda", tensorrt=wanted)
        for tensors in (gpu_tensors(2, 16), gpu_tensors(3, 24)):
            bind_all(engine, tensors)
            engine.run()
            torch.testing.assert_close(
                tensors["y"].cpu(), by_onnxruntime(convolution, tensors, "y"), rtol=1e-2, atol=1e-2
            )
        engine.close()
        kept.append({path: path.stat().st_mtime_ns for path in tmp_path.glob("*.engine")})
    assert kept[0]
    assert kept[0] == kept[1]
