"""The ONNX Runtime engine: torch's memory, bound and never copied, on the CPU and, where there is one, on a GPU."""

import gc
import importlib.util
import sys
import weakref
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from deepcache_trt.engines.onnxruntime.engine import GraphNumbers, OnnxRuntimeEngine
from deepcache_trt.engines.onnxruntime.session import TensorRtProvider, gpu_providers, open_session
from deepcache_trt.engines.profile import Range, ShapeProfile
from deepcache_trt.errors import BackendError, ShapeError, StoreError
from deepcache_trt.tensors import TensorSpec
from tests.engines.tensors import bind_all, by_onnxruntime


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = x · (step as float32), x: [batch, 4]."""
    path = tmp_path_factory.mktemp("onnx") / "engine.onnx"
    nodes = [
        helper.make_node("Cast", ["step"], ["factor"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "factor"], ["y"]),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4]),
        helper.make_tensor_value_info("step", TensorProto.INT64, [1]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])]
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(helper.make_graph(nodes, "scale", inputs, outputs), opset_imports=opset, ir_version=10)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


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


# Providers: values only, the same on every machine.

INPUTS = {
    "sample": TensorSpec(name="sample", dtype="float16", shape=("batch", 4, "height", "width")),
    "timestep": TensorSpec(name="timestep", dtype="int64", shape=(1,)),
    "tap_0": TensorSpec(name="tap_0", dtype="float16", shape=("batch", 320, "height/8", "width/8")),
}


def squares(batch: int, best: int) -> ShapeProfile:
    pixels = Range(min=8, opt=best, max=128)
    return ShapeProfile(batch=Range(min=1, opt=batch, max=batch), height=pixels, width=pixels)


def tensorrt(cache: Path, *profiles: ShapeProfile) -> TensorRtProvider:
    return TensorRtProvider(cache=cache, inputs=INPUTS, profiles=profiles)


def test_cuda_runs_on_the_given_stream_in_full_precision_with_graphs() -> None:
    assert gpu_providers(1, 4096) == [
        (
            "CUDAExecutionProvider",
            {
                "device_id": "1",
                "user_compute_stream": "4096",
                "use_tf32": "0",
                "cudnn_conv_algo_search": "HEURISTIC",
                "arena_extend_strategy": "kSameAsRequested",
                "enable_cuda_graph": "1",
            },
        )
    ]


def test_tensorrt_comes_before_cuda_on_the_same_stream_and_without_graphs() -> None:
    providers = gpu_providers(1, 4096, tensorrt(Path("/cache"), squares(2, 64)))
    assert [name for name, _ in providers] == ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
    for _, options in providers:
        assert (options["device_id"], options["user_compute_stream"]) == ("1", "4096")
        assert not [name for name in options if "cuda_graph" in name]
    _, options = providers[0]
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == "/cache"
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"


@pytest.mark.parametrize(
    ("point", "shapes"),
    [
        ("min", "sample:1x4x8x8,tap_0:1x320x1x1,sample:1x4x8x8,tap_0:1x320x1x1"),
        ("opt", "sample:2x4x64x64,tap_0:2x320x8x8,sample:4x4x96x96,tap_0:4x320x12x12"),
        ("max", "sample:2x4x128x128,tap_0:2x320x16x16,sample:4x4x128x128,tap_0:4x320x16x16"),
    ],
)
def test_tensorrt_is_told_each_profile_of_each_dynamic_input(point: str, shapes: str) -> None:
    [(_, options), _] = gpu_providers(0, 0, tensorrt(Path("/cache"), squares(2, 64), squares(4, 96)))
    assert options[f"trt_profile_{point}_shapes"] == shapes


# Numbers of CUDA graphs.


@pytest.mark.parametrize(
    ("limit", "addresses", "numbers"),
    [
        (4, "aaaa", [-1, 1, 1, 1]),
        (4, "abcabc", [-1] * 6),
        (4, "aabbab", [-1, 1, -1, 2, 1, 2]),
        (4, "aabaab", [-1, 1, -1, 1, 1, -1]),
        (1, "aabbba", [-1, 1, -1, -1, -1, 1]),
    ],
)
def test_a_graph_belongs_to_one_set_of_addresses(limit: int, addresses: str, numbers: list[int]) -> None:
    graphs = GraphNumbers(limit)
    assert [graphs.number(key) for key in addresses] == numbers


# Where the GPU, or ONNX Runtime's part for it, is missing.


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="is onnxruntime-gpu")
@pytest.mark.parametrize("profiles", [[], [squares(2, 64)]], ids=["cuda", "tensorrt"])
def test_onnxruntime_for_cpus_only_names_the_package_to_install(
    graph: Path, tmp_path: Path, profiles: list[ShapeProfile]
) -> None:
    wanted = tensorrt(tmp_path / "cache", *profiles) if profiles else None
    message = r"has no (CUDA|Tensorrt)ExecutionProvider, only .*CPUExecutionProvider; .*pip install onnxruntime-gpu"
    with pytest.raises(BackendError, match=message):
        OnnxRuntimeEngine(graph, device="cuda", tensorrt=wanted)
    assert not (tmp_path / "cache").exists()


def test_a_gpu_that_torch_does_not_see_is_named(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(BackendError, match=r"sees no GPU; install an NVIDIA driver"):
        OnnxRuntimeEngine(graph, device="cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="ONNX Runtime does not fall back where there is a GPU")
@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")  # what onnxruntime for CPUs says, and goes on
def test_a_session_that_fell_back_to_the_cpu_is_refused(graph: Path) -> None:
    with pytest.raises(BackendError, match=r"engine\.onnx on .*CPUExecutionProvider and not on CUDAExecutionProvider"):
        open_session(graph, gpu_providers(0, 4096))


def test_without_onnxruntime_a_gpu_needs_another_extra(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendError, match=r"not installed; pip install 'deepcache-trt\[cuda\]'"):
        OnnxRuntimeEngine(graph, device="cuda")


# On a GPU.


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
