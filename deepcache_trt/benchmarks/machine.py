"""What a machine is: figures mean nothing without it."""

import contextlib
import datetime
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from deepcache_trt import __version__
from deepcache_trt.engines import backends

NO_GPU = "no GPU"

# What pictures and figures depend on beside what each backend needs.
_PACKAGES = ("torch", "diffusers", "transformers", "DeepCache", "onnx")


def processor() -> str:
    """The processor, and how many threads torch uses on it."""
    import torch

    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {torch.get_num_threads()} threads"


def memory() -> str:
    """All that there is."""
    import psutil

    return f"{psutil.virtual_memory().total / 2**30:.1f} GiB"


def environment() -> dict[str, str]:
    """Everything that a figure depends on, by name; nothing that tells whose machine it is."""
    import torch

    facts = {"GPU": NO_GPU}
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(torch.cuda.current_device())
        facts = {
            "GPU": gpu.name,
            "compute capability": f"{gpu.major}.{gpu.minor}",
            "GPU memory": f"{gpu.total_memory / 2**30:.1f} GiB",
            "driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").partition("\n")[0],
            "CUDA of torch": str(torch.version.cuda),
            "cuDNN": str(torch.backends.cudnn.version()),
        }
    facts |= {
        "CPU": processor(),
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "deepcache-trt": f"{__version__}{_commit()}",
        "packages": ", ".join(_versions()),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    return {name: value or "unknown" for name, value in facts.items()}


def _versions() -> Iterator[str]:
    of_backends = (package for backend in backends.every() for package in backend.packages)
    for package in dict.fromkeys((*_PACKAGES, *of_backends)):
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            continue


def _commit() -> str:
    """The commit of this checkout, if it is one; a package installed inside another project has none."""
    here = Path(__file__)
    if not _said("git", "-C", str(here.parent), "ls-files", here.name):
        return ""
    described = _said("git", "-C", str(here.parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    return f", commit {described}"


def _said(*command: str) -> str:
    """What a program prints; nothing where there is none, or it fails."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
