"""Running a plan on a GPU: what comes out is what ONNX Runtime computes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from deepcache_trt.engines.backend import BuildOptions
from deepcache_trt.engines.tensorrt import versions
from deepcache_trt.engines.tensorrt.build import build_engine_plan
from deepcache_trt.engines.tensorrt.engine import TensorRTEngine
from deepcache_trt.errors import BackendError
from deepcache_trt.progress import logged
from tests.engines.graphs import Net, square
from tests.engines.tensors import bind_all, by_onnxruntime, tensors_for

SMALL, LARGE = square(8, 8, 8), square(16, 16, 32)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    try:
        versions.check_gpu(versions.load(name))
    except BackendError as error:
        pytest.skip(str(error))
    return name


@pytest.fixture
def stream() -> Iterator[torch.cuda.Stream]:
    with torch.cuda.stream(torch.cuda.Stream()) as context:
        yield context


def on_the_gpu(net: Net, backend: str, **options: Any) -> TensorRTEngine:
    plan, profiles = net.path.with_suffix(".plan"), [SMALL, LARGE]
    build_engine_plan(
        net.path,
        plan,
        backend=backend,
        inputs=net.inputs,
        profiles=profiles,
        target=None,
        options=BuildOptions(**options),
        timing_cache=net.path.with_name("timings"),
        progress=logged,
        stage="building",
    )
    cache = net.path.with_name("kernels")
    return TensorRTEngine(
        plan, backend=backend, inputs=net.inputs, outputs=net.outputs, profiles=profiles, runtime_cache=cache
    )


def assert_close(out: torch.Tensor, expected: torch.Tensor) -> None:
    torch.cuda.synchronize()
    error = (out.cpu().double() - expected.double()).norm() / expected.double().norm()
    assert error < (1e-2 if out.dtype == torch.float16 else 1e-4)


def workspace(*engines: TensorRTEngine) -> torch.Tensor:
    memory = torch.empty(max(1, *(e.workspace_bytes for e in engines)), dtype=torch.uint8, device="cuda")
    for engine in engines:
        engine.use_workspace(memory)
    return memory


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_engine_computes_what_onnxruntime_does_at_the_shapes_of_both_profiles(
    tmp_path: Path, backend: str, stream: Any, dtype: str
) -> None:
    net = Net(tmp_path / "net.onnx", dtype=dtype)
    engine = on_the_gpu(net, backend)
    workspace(engine)
    for batch, side in [(2, 8), (3, 16), (1, 8), (4, 32), (2, 8)]:
        tensors = tensors_for(net, batch, side, side, seed=3, device="cuda")
        bind_all(engine, tensors)
        engine.run()
        assert_close(tensors["out"], by_onnxruntime(net.path, tensors, "out"))
        assert engine.capturable
        assert backend == "tensorrt" or net.path.with_name("kernels").stat().st_size
    engine.close()


def test_two_engines_share_one_workspace_and_a_captured_graph(tmp_path: Path, backend: str, stream: Any) -> None:
    nets = [Net(tmp_path / f"{seed}.onnx", seed=seed) for seed in (1, 2)]
    engines = [on_the_gpu(net, backend) for net in nets]
    memory = workspace(*engines)
    bound = [tensors_for(net, 2, 16, 16, seed=3, device="cuda") for net in nets]
    for engine, tensors in zip(engines, bound, strict=True):
        bind_all(engine, tensors)
        engine.run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        for engine in engines:
            engine.run()
    for tensors in bound:
        tensors["out"].fill_(torch.nan)
    memory.fill_(255)
    graph.replay()
    for net, tensors in zip(nets, bound, strict=True):
        assert_close(tensors["out"], by_onnxruntime(net.path, tensors, "out"))
    del graph
    for engine in engines:
        engine.close()


def test_a_refitted_engine_computes_with_the_other_weights(tmp_path: Path, backend: str, stream: Any) -> None:
    first, second = Net(tmp_path / "first.onnx", seed=1), Net(tmp_path / "second.onnx", seed=2)
    engine = on_the_gpu(first, backend, refittable=True)
    workspace(engine)
    tensors = tensors_for(first, 2, 8, 8, seed=3, device="cuda")
    bind_all(engine, tensors)
    results = []
    for net in (first, second, first):
        engine.refit(net.path)
        engine.run()
        assert_close(tensors["out"], by_onnxruntime(net.path, tensors, "out"))
        results.append(tensors["out"].clone())
    assert torch.equal(results[0], results[2])
    engine.close()


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"no plan" * 100])
def test_a_damaged_plan_does_not_load(tmp_path: Path, backend: str, damage: Any) -> None:
    net = Net(tmp_path / "net.onnx")
    on_the_gpu(net, backend).close()
    plan = net.path.with_suffix(".plan")
    plan.write_bytes(damage(plan.read_bytes()))
    with pytest.raises(BackendError, match=r"net\.plan does not load"):
        TensorRTEngine(plan, backend=backend, inputs=net.inputs, outputs=net.outputs, profiles=[SMALL, LARGE])
