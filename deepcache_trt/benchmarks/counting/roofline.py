"""How fast a GPU could run a graph at best, by its peaks and its bandwidth alone: a prediction, no measurement.

The roofline model (Williams, Waterman, Patterson 2009), applied to each kernel apart: it takes as long as its
operations at the GPU's peak for their precision, or as its bytes at full bandwidth of its memory, whichever is longer.
Kernels run one after the other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from deepcache_trt.benchmarks.counting.cost import Cost, Kernel
from deepcache_trt.errors import DeepCacheError, UnknownNameError, did_you_mean
from deepcache_trt.export.precision import INT8
from deepcache_trt.runtime.plan import FULL
from deepcache_trt.runtime.policies.deepcache import SHALLOW

_HALF = ("float16", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """What a vendor says of a GPU.

    Attributes:
        name: as the vendor writes it.
        tflops: peak of the tensor cores for dense matrices in half precision with sums in float32, in 10¹² a second;
            a multiply-accumulate is two of them.
        bandwidth: of its memory, in 10⁹ bytes a second.
        source: where that is published.
        tops: the same peak for whole numbers of 8 bits, in 10¹² a second; None: not known.
        device: as its driver calls it; "" for a GPU that is in no list.
        dtypes: for which the first peak holds.
    """

    name: str
    tflops: float
    bandwidth: float
    source: str
    tops: float | None = None
    device: str = ""
    dtypes: tuple[str, ...] = _HALF

    def __post_init__(self) -> None:
        if not all(figure > 0 for figure in (self.tflops, self.bandwidth, self.tops or 1)):
            peaks = f"{self.tflops} TFLOPS{'' if self.tops is None else f' and {self.tops} TOPS'}"
            raise DeepCacheError(f"a peak of {peaks} and a bandwidth of {self.bandwidth} GB/s: all must be above 0")


# Data sheets give twice these peaks where they count matrices of which half is zero.
GPUS = (
    Gpu(
        name="RTX A5000",
        tflops=111.1,
        tops=222.2,
        bandwidth=768,
        source="NVIDIA RTX A5000 data sheet",
        device="NVIDIA RTX A5000",
    ),
    Gpu(
        name="A100-40",
        tflops=312,
        tops=624,
        bandwidth=1555,
        source="NVIDIA A100 data sheet, SXM 40 GB",
        device="NVIDIA A100-SXM4-40GB",
    ),
    Gpu(
        name="A100-80",
        tflops=312,
        tops=624,
        bandwidth=2039,
        source="NVIDIA A100 data sheet, SXM 80 GB",
        device="NVIDIA A100-SXM4-80GB",
    ),
    Gpu(
        name="H100 SXM",
        tflops=989.4,
        tops=1978.9,
        bandwidth=3350,
        source="NVIDIA H100 GPU architecture white paper, SXM5",
        device="NVIDIA H100 80GB HBM3",
    ),
    Gpu(
        name="H200",
        tflops=989.5,
        tops=1979,
        bandwidth=4800,
        source="NVIDIA H200 data sheet, SXM 141 GB",
        device="NVIDIA H200",
    ),
    Gpu(
        name="RTX 4090",
        tflops=165.2,
        tops=660.6,
        bandwidth=1008,
        source="NVIDIA Ada GPU architecture white paper",
        device="NVIDIA GeForce RTX 4090",
    ),
    Gpu(
        name="RTX 3090",
        tflops=71,
        tops=284,
        bandwidth=936,
        source="NVIDIA Ampere GA102 GPU architecture white paper",
        device="NVIDIA GeForce RTX 3090",
    ),
    Gpu(
        name="L4",
        tflops=121,
        tops=242.5,
        bandwidth=300,
        source="NVIDIA L4 data sheet",
        device="NVIDIA L4",
    ),
    Gpu(
        name="T4",
        tflops=65,
        tops=130,
        bandwidth=320,
        source="NVIDIA Turing GPU architecture white paper",
        device="Tesla T4",
        dtypes=("float16",),
    ),
)


def gpu_of_device(device: str, *, dtype: str) -> Gpu | None:
    """The GPU that a driver calls so; None where it, or its peak in that precision, is not in the list."""
    return next((gpu for gpu in GPUS if gpu.device == device and dtype in gpu.dtypes), None)


def gpu_from_options(
    name: str | None,
    *,
    tflops: float | None,
    bandwidth: float | None,
    dtype: str,
    tops: float | None = None,
    precision: str | None = None,
) -> Gpu | None:
    """The GPU that a command's options mean; None: none of them is given.

    Args:
        name: one of `GPUS`, in any case.
        tflops: of a GPU that is not among them, in the precision of the graph.
        bandwidth: of that GPU, in GB/s.
        dtype: of the graph.
        tops: of that GPU, for the precision of quantized layers.
        precision: theirs; None: there are none.

    Raises:
        UnknownNameError: no such name.
        DeepCacheError: options that do not go together, or a precision that the table has no peak for.
    """
    if name is not None and (tflops, bandwidth, tops) != (None, None, None):
        raise DeepCacheError(
            f"--gpu {name} says the peaks and the bandwidth; leave --peak-tflops, --peak-tops and --bandwidth out"
        )
    if tops is not None and precision is None:
        raise DeepCacheError(f"--peak-tops {tops:g} is of 8 bits, and nothing is in 8 bits; give --precision int8 too")
    if name is None:
        if tflops is None or bandwidth is None:
            if (tflops, bandwidth, tops) != (None, None, None):
                raise DeepCacheError("--peak-tflops or --bandwidth alone makes no roofline; give both, or --gpu")
            return None
        if precision is not None and tops is None:
            raise DeepCacheError(f"--precision {precision} wants the peak for 8 bits too; give --peak-tops, or --gpu")
        source = f"--peak-tflops, {'--peak-tops, ' if tops else ''}--bandwidth"
        return Gpu(name="GPU as given", tflops=tflops, bandwidth=bandwidth, tops=tops, source=source)
    known = {gpu.name.lower(): gpu for gpu in GPUS}
    if name.lower() not in known:
        names = [gpu.name for gpu in GPUS]
        raise UnknownNameError(
            f"unknown GPU {name!r}{did_you_mean(name, names)}; there are {', '.join(names)}; "
            f"for others give --peak-tflops and --bandwidth"
        )
    gpu = known[name.lower()]
    if dtype not in gpu.dtypes:
        raise DeepCacheError(
            f"the peak of {gpu.name} is known for {' and '.join(gpu.dtypes)}, not for {dtype}; "
            f"choose another --dtype, or give --peak-tflops and --bandwidth"
        )
    if precision not in (None, INT8.name):
        raise DeepCacheError(
            f"the peak of {gpu.name} in 8 bits is known for {INT8.name}, not for {precision}; "
            f"give --peak-tflops, --peak-tops and --bandwidth"
        )
    return gpu


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Seconds of one run of a graph.

    Attributes:
        compute: of all operations at the peak.
        memory: of `Cost.layers` at full bandwidth.
        seconds: of its kernels one after the other, each as long as the longer of the two.
        least: below which no engine can go: all operations, or `Cost.least`, whichever takes longer.
    """

    compute: float
    memory: float
    seconds: float
    least: float


def predict(cost: Cost, gpu: Gpu) -> Prediction:
    """What the roofline of a GPU allows a graph."""
    bandwidth = gpu.bandwidth * 1e9
    computing = [2 * kernel.macs.total / (_peak(gpu, kernel) * 1e12) for kernel in cost.kernels]
    compute = sum(computing)
    return Prediction(
        compute=compute,
        memory=cost.layers / bandwidth,
        seconds=sum(max(own, kernel.bytes / bandwidth) for own, kernel in zip(computing, cost.kernels, strict=True)),
        least=max(compute, cost.least / bandwidth),
    )


def _peak(gpu: Gpu, kernel: Kernel) -> float:
    if not kernel.in_8_bits:
        return gpu.tflops
    assert gpu.tops is not None, "refused before"
    return gpu.tops


def measured_from_options(texts: Sequence[str], *, gpu: Gpu | None, branches: Sequence[int]) -> dict[str, float]:
    """Read `--seconds full=0.031 --seconds shallow=0.004`: seconds by the variant's name.

    Args:
        texts: what was given.
        gpu: that they were measured on.
        branches: that were asked for.

    Raises:
        DeepCacheError: what is no time of a variant, or of which it is not clear what it was measured on.
    """
    if not texts:
        return {}
    if gpu is None:
        raise DeepCacheError("--seconds is compared with a prediction; say of which GPU, with --gpu")
    if len(branches) > 1:
        raise DeepCacheError("--seconds is of one shallow variant; give one --branch")
    return dict(map(_seconds, texts))


def _seconds(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    try:
        seconds = float(number)
    except ValueError:
        seconds = 0.0
    if name not in (FULL, SHALLOW) or not 0 < seconds < math.inf:
        raise DeepCacheError(f"--seconds {text} is no time of a variant; write {FULL}=0.031 or {SHALLOW}=0.004")
    return name, seconds
