"""From a graph to a TensorRT engine plan, in a process of its own.

TensorRT compiles in calls that last up to a minute and do not return for a Ctrl-C, takes several times the memory of
the weights meanwhile, and ends its process where CUDA is missing; Polygraphy serves either TensorRT or TensorRT-RTX in
one process. A child can be stopped at any time, gives its memory back, and may die without the caller.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from deepcache_trt.engines.backend import BuildOptions
from deepcache_trt.engines.caches import is_usable, seal
from deepcache_trt.engines.profile import ShapeProfile
from deepcache_trt.engines.tensorrt import versions
from deepcache_trt.errors import BackendError, StoreError, UnknownNameError, did_you_mean
from deepcache_trt.progress import Progress, Report
from deepcache_trt.tensors import TensorSpec

_log = logging.getLogger(__name__)

_CHILD = "deepcache_trt.engines.tensorrt.compiler"
_KILLED = -9  # the exit status of a process that the system ended


def build_engine_plan(
    graph: Path,
    path: Path,
    *,
    backend: str,
    inputs: Mapping[str, TensorSpec],
    profiles: Sequence[ShapeProfile],
    target: str | None,
    options: BuildOptions,
    timing_cache: Path | None,
    progress: Progress,
    stage: str,
) -> dict[str, Any]:
    """Compile `graph`, an ONNX file with its weights beside it, into the file `path`; nothing is written if it fails.

    The engine plan computes in the dtypes of the graph, TF32 off. One serves all `profiles`; `inputs` give the shapes
    over their axes. `target` is the GPU to build for, such as "sm86" (tensorrt-rtx only), or None for torch's current
    one. What TensorRT measures is merged into the file `timing_cache`; TensorRT-RTX measures nothing.

    Returns:
        What a manifest should say about the engine plan.

    Raises:
        BackendError: the backend is not installed, lacks a GPU, or cannot compile the graph.
        UnknownNameError: no such target.
        StoreError: there is no graph.
    """
    trt = versions.load(backend)
    if find_spec("polygraphy") is None:
        raise BackendError(
            f"backend {backend!r} builds through polygraphy, which is not installed; pip install polygraphy"
        )
    if not graph.is_file():
        raise StoreError(f"there is no graph at {graph}; build it again")
    check_target(backend, target, options)
    timings = timing_cache if versions.keeps_timings(trt) else None
    job = {
        "graph": str(graph),
        "path": str(path),
        "backend": backend,
        "inputs": [asdict(spec) for spec in inputs.values()],
        "profiles": [asdict(profile) for profile in profiles],
        "target": target,
        "options": asdict(options),
        "timing_cache": str(timings) if timings else None,
        "log_level": _log.getEffectiveLevel(),
    }
    partial = partial_file(path)
    if timings is not None:
        is_usable(timings)  # or it is gone, and everything is measured again
    try:
        with progress(stage) as report:
            facts = _compile(job, report, _environment(backend, target))
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    if timings is not None and timings.exists():
        seal(timings)
    return facts


def partial_file(path: Path) -> Path:
    """Where the engine plan is while it is written."""
    return path.with_name(f"{path.name}.part")


def check_target(backend: str, target: str | None, options: BuildOptions) -> None:
    """Raise what `build_engine_plan` would, before anything is made for it: an unknown target, no GPU to build on."""
    trt = versions.load(backend)
    if target is None:
        import torch

        if not torch.cuda.is_available():
            raise BackendError(
                f"backend {backend!r} builds for the GPU at hand and torch sees none; build on the machine that has "
                "it, or ahead of time with --backend tensorrt-rtx --target sm86 (or another GPU)"
            )
        versions.check_gpu(trt)
        return
    if backend != "tensorrt-rtx":
        raise BackendError(
            f"backend {backend!r} builds for the GPU at hand only, not for {target!r}; "
            "leave the target out, or build ahead with backend 'tensorrt-rtx'"
        )
    known = versions.targets(trt)
    if target not in known:
        raise UnknownNameError(
            f"TensorRT-RTX {trt.__version__} cannot build for {target!r}{did_you_mean(target, known)}; "
            f"it can for {', '.join(known)}"
        )
    if options.refittable:
        raise BackendError(
            f"a refittable engine plan can only be built on the GPU that it is for, not ahead for {target!r}; "
            "leave the target out there, or build one engine plan for each set of weights"
        )


def _environment(backend: str, target: str | None) -> dict[str, str]:
    """The child's: this package, Polygraphy's choice, and of several GPUs torch's current one."""
    package = Path(__file__).parents[3]
    paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "POLYGRAPHY_USE_TENSORRT_RTX": str(int(backend == "tensorrt-rtx")),
    }
    if target is None:
        import torch

        visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        index = torch.cuda.current_device()
        environment["CUDA_VISIBLE_DEVICES"] = visible[index] if visible else str(index)
    return environment


def _compile(job: Mapping[str, Any], report: Report, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run the child to its end and hand on what it says; it does not outlive this call."""
    # -P: no module of the current folder may pass for a library.
    command = [sys.executable, "-P", "-m", _CHILD, json.dumps(job)]
    with (
        tempfile.TemporaryFile("w+", errors="replace") as stderr,
        subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,  # never written; when it closes, the child knows that nobody waits for it
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            process_group=0,  # the terminal's Ctrl-C is for this process, which then stops the child
        ) as child,
    ):
        assert child.stdout is not None
        try:
            facts = _follow(child.stdout, report)
            if facts is None:
                child.wait()
        finally:
            child.kill()
            child.wait()
        if facts is None:
            raise BackendError(_obituary(Path(job["graph"]).name, child.returncode, stderr))
        return facts


def _follow(lines: IO[str], report: Report) -> dict[str, Any] | None:
    """Hand on the child's events until it is done: facts about the engine plan, or None if it ended without a word."""
    for line in lines:
        event: dict[str, Any] = json.loads(line)
        match event.pop("event"):
            case "progress":
                report(**event)
            case "log":
                _log.log(event["level"], "%s", event["text"])
            case "built":
                return event
            case "failed":
                raise BackendError(event["message"])
    return None


def _obituary(graph: str, status: int, stderr: IO[str]) -> str:
    if status == _KILLED:
        return (
            f"the build of {graph} was killed by the system, most likely for want of memory: it needs several times "
            "the size of the weights; close other programs, or build on a larger machine"
        )
    stderr.seek(0)
    last = (stderr.read().strip().splitlines() or ["it said nothing"])[-1]
    how = signal.Signals(-status).name if status < 0 else f"status {status}"
    return f"the build of {graph} ended with {how}: {last}"
