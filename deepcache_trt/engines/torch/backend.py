"""The backends `torch` and `torch-compile`, on the CPU and on NVIDIA GPUs."""

import importlib.util
import os
import shutil
from collections.abc import Callable
from functools import partial

from deepcache_trt.engines.backend import Backend, BuildOptions, Built, keep_nothing, package_version, why_no_gpu
from deepcache_trt.engines.torch.engine import TorchEngine
from deepcache_trt.errors import BackendError

# The optimization level from which torch's compiler times several kernels for each operation and takes the fastest; it
# records no CUDA graphs of its own, since the loop does.
_TUNING_LEVEL = 4


def _probe(device: str) -> str:
    """The version, and the name of the GPU."""
    import torch

    missing = why_no_gpu() if device == "cuda" else None
    if missing:
        raise BackendError(missing)
    return f"{torch.__version__}{f' on {torch.cuda.get_device_name()}' if device == 'cuda' else ''}"


def _probe_compiled(device: str) -> str:
    """torch's compiler needs another one: triton on a GPU, of C++ on a CPU."""
    detail = _probe(device)
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        raise BackendError("triton is not installed; pip install triton")
    if device == "cpu" and not any(map(shutil.which, (os.environ.get("CXX") or "g++", "clang++"))):
        raise BackendError("no C++ compiler; install g++")
    return detail


def _open_eager(device: str, built: Built) -> TorchEngine:
    assert built.variant is not None
    traceable, own = built.variant.traceable, built.variant.eager()
    inputs, outputs = {**built.inputs, **built.variant.inputs}, dict(built.outputs)
    is_cut = not built.inputs.keys() <= built.variant.inputs.keys()  # it has a tap for an input
    if traceable is None or not is_cut:
        capturable = traceable is not None
        return TorchEngine(own, inputs=inputs, outputs=outputs, device=device, capturable=capturable)
    return TorchEngine(traceable(), inputs=inputs, outputs=outputs, device=device, mode="prune", otherwise=own)


def _open_compiled(device: str, built: Built) -> TorchEngine:
    assert built.variant is not None
    if built.variant.traceable is None:
        return _open_eager(device, built)
    inputs, outputs = {**built.inputs, **built.variant.inputs}, dict(built.outputs)
    tunes = (built.options.optimization_level or 0) >= _TUNING_LEVEL
    traceable = built.variant.traceable()
    return TorchEngine(traceable, inputs=inputs, outputs=outputs, device=device, mode="compile", tunes=tunes)


def _check_options(target: str | None, options: BuildOptions) -> None:
    if options.workspace_bytes is not None or options.refittable:
        raise BackendError(
            "PyTorch manages its own workspace and reads weights where they are; leave these options out"
        )


def _backend(
    name: str, device: str, open_on: Callable[[str, Built], TorchEngine], probe: Callable[[str], str], *, exact: bool
) -> Backend:
    return Backend(
        name=name,
        device=device,
        probe=partial(probe, device),
        version=partial(package_version, "torch"),
        build=keep_nothing,
        open=partial(open_on, device),
        packages=("torch",),
        trusted=True,
        runs_model=True,
        bit_exact=exact,
        check=_check_options,
        options=not exact,
        lacks=dict.fromkeys(
            ("int8", "fp8"),
            "it runs the model itself, whose weights stay as they are; leave the precision out, or use backend "
            "'openvino' or 'onnxruntime' on a CPU and 'tensorrt' on a GPU",
        ),
    )


EAGER_CPU, EAGER_CUDA = (_backend("torch", device, _open_eager, _probe, exact=True) for device in ("cpu", "cuda"))
COMPILED_CPU, COMPILED_CUDA = (
    _backend("torch-compile", device, _open_compiled, _probe_compiled, exact=False) for device in ("cpu", "cuda")
)
