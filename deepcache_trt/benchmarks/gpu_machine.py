"""What a machine is, and which backends work on it; in a process of its own, since asking may end it.

python -m deepcache_trt.benchmarks.gpu_machine --out machine.json
"""

import argparse
import datetime
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from deepcache_trt import __version__
from deepcache_trt.benchmarks.demo import machine
from deepcache_trt.benchmarks.gpu_report import NO_GPU, WORKS, Row, write_json
from deepcache_trt.engines import backends, tensorrt_versions
from deepcache_trt.errors import BackendError

_PACKAGES = (
    *("torch", "diffusers", "transformers", "DeepCache", "onnx", "onnxruntime", "onnxruntime-gpu", "polygraphy"),
    *("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx", "tensorrt-rtx-cu12", "tensorrt-rtx-cu13"),
    *("cuda-python", "openvino"),
)


def environment() -> dict[str, str]:
    """Everything that a figure depends on, by name; nothing that tells whose machine it is."""
    import torch

    found = {"GPU": NO_GPU}
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(torch.cuda.current_device())
        found = {
            "GPU": gpu.name,
            "compute capability": f"{gpu.major}.{gpu.minor}",
            "GPU memory": f"{gpu.total_memory / 2**30:.1f} GiB",
            "driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").partition("\n")[0],
            "CUDA of torch": str(torch.version.cuda),
            "cuDNN": str(torch.backends.cudnn.version()),
        }
    found |= {
        "CPU": machine(),
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "deepcache-trt": f"{__version__}{_commit()}",
        "packages": ", ".join(_versions()),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    return {name: value or "unknown" for name, value in found.items()}


def _versions() -> Iterator[str]:
    for package in _PACKAGES:
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            continue


def _commit() -> str:
    """The commit of this checkout, if it is one; a package installed inside another project has none."""
    here = Path(__file__).parent
    if not _said("git", "-C", str(here), "ls-files", "demo.py"):
        return ""
    return f", commit {_said('git', '-C', str(here), 'describe', '--always', '--dirty', '--abbrev=12', '--exclude=*')}"


def _said(*command: str) -> str:
    """What a program prints; nothing where there is none, or it fails."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def backend_rows() -> list[Row]:
    """Which backends work here, and what to install for the others."""
    return [
        Row(
            backend=found.name,
            device=found.device,
            model="",
            check=WORKS,
            status="pass" if found.works else "missing",
            detail=found.detail,
        )
        for found in backends.probe_all()
    ]


def builds_ahead() -> bool:
    """Whether plans for a GPU elsewhere can be built."""
    try:
        tensorrt_versions.load(backends.AHEAD)
    except BackendError:
        return False
    return True


def main() -> None:
    """Look around."""
    parser = argparse.ArgumentParser(description="Describe this machine; `gpu_check` runs this.")
    parser.add_argument("--out", required=True, type=Path)
    out = parser.parse_args().out
    facts: dict[str, Any] = {"environment": environment(), "rows": [], "builds_ahead": builds_ahead()}
    write_json(out, facts)  # the probes load every backend
    write_json(out, facts | {"rows": [asdict(row) for row in backend_rows()]})


if __name__ == "__main__":
    main()
