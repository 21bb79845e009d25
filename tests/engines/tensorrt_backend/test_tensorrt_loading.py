"""Loading a plan, giving it other weights and letting go of it, told to a double of TensorRT's API."""

import gc
import weakref
from pathlib import Path

import pytest
import torch

from deepcache_trt.engines.tensorrt.engine import TensorRTEngine
from deepcache_trt.errors import BackendError, StoreError
from tests.engines.graphs import by_name, spec
from tests.engines.tensorrt_backend.doubled_engine import RUN, bind, load
from tests.engines.tensorrt_backend.tensorrt_double import Context, CudaEngine, Recorder, Runtime


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


def test_compiled_kernels_are_kept_between_two_engines(plan: Path, recorder: Recorder, tmp_path: Path) -> None:
    cache = tmp_path / "kernels.cache"
    load(plan, runtime_cache=cache).close()
    assert cache.read_bytes() == b"compiled kernels"
    assert ("set_runtime_cache",) in recorder.take()
    load(plan, runtime_cache=cache)
    assert ("deserialize", b"compiled kernels") in recorder.take()
    recorder.failing = {"deserialize"}  # from another driver
    load(plan, runtime_cache=cache).close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["engine.plan", "kernels.cache"]


def test_kernels_that_cannot_be_saved_are_a_warning(
    plan: Path, recorder: Recorder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(plan, runtime_cache=tmp_path / "gone" / "kernels.cache").close()
    assert "were not saved to" in caplog.text


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
