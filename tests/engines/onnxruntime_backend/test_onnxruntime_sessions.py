"""ONNX Runtime's sessions on a GPU: which providers and CUDA graphs they have, and what is said if one is missing."""

import sys
from pathlib import Path

import onnxruntime
import pytest
import torch

from deepcache_trt.engines.onnxruntime.engine import GraphNumbers, OnnxRuntimeEngine
from deepcache_trt.engines.onnxruntime.session import TensorRtProvider, gpu_providers, open_session
from deepcache_trt.engines.profile import ShapeProfile
from deepcache_trt.errors import BackendError
from deepcache_trt.tensors import TensorSpec
from tests.engines.onnxruntime_backend.square_profiles import squares

# Providers: values only, the same on every machine.

INPUTS = {
    "sample": TensorSpec(name="sample", dtype="float16", shape=("batch", 4, "height", "width")),
    "timestep": TensorSpec(name="timestep", dtype="int64", shape=(1,)),
    "tap_0": TensorSpec(name="tap_0", dtype="float16", shape=("batch", 320, "height/8", "width/8")),
}


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
