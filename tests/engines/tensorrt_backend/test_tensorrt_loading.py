"""Loading a plan, giving it other weights and letting go of it, told to a double of TensorRT's API."""

import gc
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from deepcache_trt.engines.backend import BuildOptions
from deepcache_trt.engines.tensorrt import TENSORRT_RTX, versions
from deepcache_trt.engines.tensorrt.engine import TensorRTEngine
from deepcache_trt.errors import BackendError, ShapeError, StoreError
from tests.engines.graphs import by_name, spec
from tests.engines.tensorrt_backend.doubled_engine import RUN, aligned, bind, load
from tests.engines.tensorrt_backend.tensorrt_double import WORKSPACE, Context, CudaEngine, Module, Recorder, Runtime


def test_a_plan_that_does_not_load_is_an_error_with_tensorrts_reason(plan: Path, recorder: Recorder) -> None:
    recorder.failing = {"deserialize_cuda_engine"}
    with pytest.raises(
        BackendError,
        match=r"engine\.plan does not load with tensorrt_rtx 1\.7\.1 on this GPU \(deserialize.* went wrong\); .*again",
    ):
        load(plan)
    plan.write_bytes(b"")
    with pytest.raises(BackendError, match=r"engine\.plan does not load .*it gave no reason"):
        load(plan)


def test_a_missing_plan_is_named_with_the_cure(tmp_path: Path, recorder: Recorder) -> None:
    with pytest.raises(StoreError, match=r"no engine plan at .*gone\.plan; build it again"):
        load(tmp_path / "gone.plan")


def test_a_plan_that_its_manifest_does_not_describe_is_refused(plan: Path, recorder: Recorder) -> None:
    half = by_name(spec("out", "float16", "batch", 4, "height", "width"))
    with pytest.raises(BackendError, match=r"'out' is float32 there and float16 in its manifest; build it again"):
        load(plan, outputs=half)
    with pytest.raises(BackendError, match=r"'out' is float32 there and nothing in its manifest"):
        load(plan, outputs={})


def test_without_a_gpu_nothing_of_tensorrt_is_touched(
    plan: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match=r"'tensorrt-rtx' needs an NVIDIA GPU and torch sees none"):
        load(plan)
    assert recorder.calls == []


@pytest.mark.parametrize(
    ("version", "capability", "refused"),
    [
        ("1.7.1.116", (9, 0), True),
        ("1.8.0", (9, 0), True),
        ("1.7.1.116", (8, 6), False),
        ("1.7.1.116", (12, 0), False),
        ("1.4.0.76", (9, 0), False),
        ("1.6.1", (9, 0), False),
    ],
)
def test_a_gpu_that_tensorrt_rtx_does_not_list_is_refused_by_the_versions_that_would_refuse_it_later(
    plan: Path,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    capability: tuple[int, int],
    refused: bool,
) -> None:
    monkeypatch.setattr(Module, "__version__", version)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    actions: list[Callable[[], object]] = [
        lambda: load(plan),
        TENSORRT_RTX.probe,
        lambda: TENSORRT_RTX.check(None, BuildOptions()),
    ]
    message = (
        rf"^TensorRT-RTX {version} is for sm86, sm120, and this NVIDIA RTX A5000 is sm90; "
        r"use backend tensorrt, onnxruntime or torch on it$"
    )
    for action in actions:
        with pytest.raises(BackendError, match=message) if refused else nullcontext():
            action()
    assert refused == (recorder.take() == [])


def test_a_gpu_that_may_work_is_a_remark_and_the_cure_if_it_does_not(
    plan: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Module, "__version__", "1.4.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    cure = "is sm90; use backend tensorrt, onnxruntime or torch on it"
    assert TENSORRT_RTX.probe().endswith(f"{cure} if this fails)")
    recorder.failing = {"deserialize_cuda_engine"}
    with pytest.raises(BackendError, match=rf"engine\.plan does not load .*went wrong\); .*{cure}$"):
        load(plan)


def test_tensorrt_itself_lists_no_gpus_and_refuses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    trt = SimpleNamespace(__name__="tensorrt", __version__="10.13.3")
    assert versions.check_gpu(trt) == ""


# A machine with several GPUs.


def test_an_engine_works_on_the_gpu_that_it_was_loaded_on(plan: Path, recorder: Recorder) -> None:
    """The double refuses every call for another current GPU than that of loading, as -2 and -1 stand for here."""
    recorder.device = -2
    engine = load(plan, runtime_cache=plan.with_name("kernels"))
    engine._device = -2
    recorder.device = -1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "get_device", lambda self: -2)
        engine.use_workspace(aligned(WORKSPACE, dtype=torch.uint8))
        for batch in (2, 3):
            bind(engine, batch, 8)
            engine.run()
        engine.refit(Path("other.onnx"))
        engine.run()
        engine.close()
    assert recorder.calls.count(RUN) == 3
    assert recorder.device == -1


def test_a_tensor_of_another_gpu_is_refused(engine: TensorRTEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "get_device", lambda self: 1)
    with pytest.raises(ShapeError, match=r"sample is on cuda:1, the engine was loaded on cuda:-1"):
        engine.bind("sample", aligned(2, 4, 8, 8))


# Other weights.


@pytest.mark.parametrize(
    ("failing", "missing", "message"),
    [
        ({"refit_from_file"}, [], "cannot take the weights of other.onnx: refit_from_file went wrong"),
        ({"refit_cuda_engine"}, [], "cannot take the weights of other.onnx: refit_cuda_engine went wrong"),
        (set(), ["conv_in.weight", "b"], r"other\.onnx lacks 2 weights of the engine, 'conv_in\.weight' among them"),
    ],
)
def test_weights_that_do_not_fit_are_an_error(
    engine: TensorRTEngine, recorder: Recorder, failing: set[str], missing: list[str], message: str
) -> None:
    recorder.failing, recorder.missing_weights = failing, missing
    with pytest.raises(BackendError, match=message):
        engine.refit(Path("other.onnx"))
    assert not missing or ("refit_cuda_engine",) not in recorder.calls


def test_a_refit_waits_for_the_gpu_and_keeps_the_contexts(engine: TensorRTEngine, recorder: Recorder) -> None:
    bind(engine, 2, 8)
    engine.run()
    recorder.take()
    engine.refit(Path("other.onnx"))
    engine.run()
    assert recorder.take() == [("synchronize",), ("refit_from_file", "other.onnx"), ("refit_cuda_engine",), RUN]


def test_a_plan_that_was_not_built_for_it_is_not_refitted(
    engine: TensorRTEngine, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CudaEngine, "refittable", False)
    with pytest.raises(BackendError, match="not built to be refitted; build another one"):
        engine.refit(Path("other.onnx"))
    assert recorder.take() == []


def test_close_lets_go_in_order_and_may_be_repeated(
    engine: TensorRTEngine, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    gc.collect()  # those of other tests
    for double in (Context, CudaEngine, Runtime):
        name = double.__name__
        monkeypatch.setattr(
            double, "__del__", lambda self, name=name: recorder.calls.append(("drop", name)), raising=False
        )
    tensors = bind(engine, 2, 8)
    engine.run()
    alive = [weakref.ref(tensor) for tensor in tensors.values()]
    recorder.take()
    engine.close()
    engine.close()
    del tensors
    gc.collect()
    assert recorder.take() == [("synchronize",), ("drop", "Context"), ("drop", "CudaEngine"), ("drop", "Runtime")]
    assert [ref() for ref in alive] == [None] * 3
