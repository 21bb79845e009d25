"""The roofline: arithmetic on two figures of a GPU, and options that say which."""

from dataclasses import replace

import pytest

from deepcache_trt.benchmarks.counting.cost import Cost, Kernel
from deepcache_trt.benchmarks.counting.macs import Macs
from deepcache_trt.benchmarks.counting.roofline import GPUS, Gpu, gpu_from_options, measured_from_options, predict
from deepcache_trt.errors import DeepCacheError, UnknownNameError

# 2 × 10¹² operations and 10⁹ bytes a second: a multiply-accumulate for each thousandth of a byte.
GPU = Gpu(name="round", tflops=2, bandwidth=1, source="made up")


def kernel(*, seconds_computing: int, seconds_moving: int, attention: bool = False) -> Kernel:
    """One that takes so long on `GPU` by either limit."""
    macs = seconds_computing * 10**12
    return Kernel(
        macs=Macs(weights=0 if attention else macs, attention=macs if attention else 0),
        bytes=seconds_moving * 10**9,
    )


def cost(*kernels: Kernel, least: int) -> Cost:
    return Cost(parameters=0, weights=0, inputs={}, least=least, unfused=0, kernels=kernels)


def test_each_kernel_takes_as_long_as_the_slower_of_its_limits() -> None:
    found = predict(
        cost(
            kernel(seconds_computing=5, seconds_moving=1),
            kernel(seconds_computing=1, seconds_moving=3),
            kernel(seconds_computing=2, seconds_moving=1, attention=True),
            least=3 * 10**9,
        ),
        GPU,
    )
    assert (found.compute, found.memory, found.seconds) == (8, 5, 5 + 3 + 2)
    assert found.least == 8  # the operations; moving alone would take 3


def test_no_engine_can_go_below_moving_everything_once() -> None:
    found = predict(cost(kernel(seconds_computing=1, seconds_moving=7), least=6 * 10**9), GPU)
    assert found.least == 6
    assert found.least <= found.seconds


def test_a_faster_gpu_is_predicted_to_be_faster() -> None:
    work = cost(kernel(seconds_computing=5, seconds_moving=1), kernel(seconds_computing=1, seconds_moving=3), least=0)
    twice = Gpu(name="twice", tflops=4, bandwidth=2, source="made up")
    assert predict(work, GPU).seconds == 2 * predict(work, twice).seconds


def test_the_table_names_each_gpu_once_with_its_source() -> None:
    assert len({gpu.name for gpu in GPUS}) == len(GPUS)
    for gpu in GPUS:
        assert "white paper" in gpu.source or "data sheet" in gpu.source
        assert 50 < gpu.tflops < 1000, "dense: a figure for half-empty matrices is twice as large"
        assert 200 < gpu.bandwidth < 5000
        assert gpu.tops is not None
        assert 1.9 < gpu.tops / gpu.tflops < 4.1


def test_what_is_in_8_bits_computes_at_the_peak_for_those() -> None:
    gpu = Gpu(name="round", tflops=2, tops=4, bandwidth=1, source="made up")
    float_kernel, whole = kernel(seconds_computing=6, seconds_moving=1), kernel(seconds_computing=6, seconds_moving=1)
    found = predict(cost(float_kernel, replace(whole, in_8_bits=True), least=0), gpu)
    assert (found.compute, found.memory, found.seconds) == (6 + 3, 2, 6 + 3)


def test_a_peak_for_8_bits_is_wanted_where_there_are_some_and_refused_where_there_are_none() -> None:
    def given(tops: float | None, *, in_8_bits: bool, name: str | None = None) -> Gpu | None:
        own = {} if name else {"tflops": 2.0, "bandwidth": 1.0}
        figures = {"tflops": None, "bandwidth": None} | own
        return gpu_from_options(name, **figures, tops=tops, dtype="float16", precision="int8" if in_8_bits else None)

    gpu = given(4.0, in_8_bits=True)
    assert gpu is not None
    assert (gpu.tops, gpu.source) == (4.0, "--peak-tflops, --peak-tops, --bandwidth")
    with pytest.raises(DeepCacheError, match="give --peak-tops, or --gpu"):
        given(None, in_8_bits=True)
    with pytest.raises(DeepCacheError, match="nothing is in 8 bits; give --precision int8 too"):
        given(4.0, in_8_bits=False)
    with pytest.raises(DeepCacheError, match="leave --peak-tflops, --peak-tops and --bandwidth out"):
        given(4.0, in_8_bits=True, name="L4")


def test_the_tables_second_peak_is_no_peak_of_fp8() -> None:
    with pytest.raises(DeepCacheError, match="L4 in 8 bits is known for int8, not for fp8; give --peak-tflops"):
        gpu_from_options("L4", tflops=None, bandwidth=None, dtype="float16", precision="fp8")


@pytest.mark.parametrize("name", ["RTX A5000", "rtx a5000"])
def test_a_gpu_is_found_by_its_name_in_any_case(name: str) -> None:
    gpu = gpu_from_options(name, tflops=None, bandwidth=None, dtype="float16")
    assert gpu is not None
    assert (gpu.name, gpu.tflops, gpu.bandwidth) == ("RTX A5000", 111.1, 768)


def test_a_gpu_that_is_not_in_the_table_is_given_by_its_two_figures() -> None:
    gpu = gpu_from_options(None, tflops=27.8, bandwidth=768, dtype="float32")
    assert gpu is not None
    assert (gpu.tflops, gpu.bandwidth) == (27.8, 768)
    assert gpu_from_options(None, tflops=None, bandwidth=None, dtype="float32") is None


@pytest.mark.parametrize(
    ("name", "tflops", "bandwidth", "dtype", "error", "message"),
    [
        ("RTX A500", None, None, "float16", UnknownNameError, r"'RTX A500' \(did you mean 'RTX A5000'\?\); there are"),
        ("T4", None, None, "bfloat16", DeepCacheError, "T4 is known for float16, not for bfloat16; choose another"),
        ("L4", None, None, "float32", DeepCacheError, "known for float16 and bfloat16, not for float32"),
        (
            "L4",
            121.0,
            None,
            "float16",
            DeepCacheError,
            "--gpu L4 says the peaks .*; leave --peak-tflops, --peak-tops and --band",
        ),
        (None, 121.0, None, "float16", DeepCacheError, "alone makes no roofline; give both, or --gpu"),
        (None, None, 300.0, "float16", DeepCacheError, "alone makes no roofline; give both, or --gpu"),
        (None, 0.0, 300.0, "float16", DeepCacheError, r"a peak of 0\.0 TFLOPS .*: all must be above 0"),
    ],
)
def test_a_gpu_that_is_not_clear_is_refused(
    name: str | None,
    tflops: float | None,
    bandwidth: float | None,
    dtype: str,
    error: type[DeepCacheError],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        gpu_from_options(name, tflops=tflops, bandwidth=bandwidth, dtype=dtype)


def test_measured_times_are_read_by_variant() -> None:
    assert measured_from_options([], gpu=None, branches=[0, 1]) == {}
    found = measured_from_options(["full=0.031", "shallow=4e-3"], gpu=GPU, branches=[0])
    assert found == {"full": 0.031, "shallow": 0.004}


@pytest.mark.parametrize(
    ("text", "gpu", "branches", "message"),
    [
        ("full=0.031", None, [0], "say of which GPU, with --gpu"),
        ("shallow=0.004", GPU, [0, 1], "of one shallow variant; give one --branch"),
        *(
            (text, GPU, [0], f"--seconds {text} is no time of a variant; write full=0.031 or shallow=0.004")
            for text in ("full", "full=fast", "full=0", "full=-1", "full=nan", "full=inf", "deep=0.03")
        ),
    ],
)
def test_a_measurement_that_is_not_clear_is_refused(
    text: str, gpu: Gpu | None, branches: list[int], message: str
) -> None:
    with pytest.raises(DeepCacheError, match=message):
        measured_from_options([text], gpu=gpu, branches=branches)
