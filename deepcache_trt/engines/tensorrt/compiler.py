"""The process in which TensorRT compiles: `python -m deepcache_trt.engines.tensorrt.compiler`, see build.py.

Its argument is one job in JSON. Writes events as lines of JSON to stdout: `log` and `progress`, then
`built` or `failed`. Ends when stdin is closed, whatever TensorRT is doing.
"""

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from deepcache_trt.engines.profile import ShapeProfile
from deepcache_trt.engines.tensorrt import quantized_layers, versions
from deepcache_trt.engines.tensorrt.build import partial_file
from deepcache_trt.errors import BackendError, DeepCacheError, first_line
from deepcache_trt.tensors import TensorSpec

# What part of a line in TensorRT's errors means, and what helps.
_CURES = {
    "out of memory": "build for smaller or fewer shapes, or free memory on the GPU",
    "outofmemory": "build for smaller or fewer shapes, or free memory on the GPU",
    "workspace": "allow more workspace, or build for a narrower profile",
    "could not find any implementation": "build for a narrower profile, or allow more workspace",
}

# A step may take a microsecond or a minute; more reports than this a second help nobody.
_SECONDS_BETWEEN_REPORTS = 0.1

Send = Callable[..., None]


def main() -> None:
    """Do the job."""
    send = _events()
    job = json.loads(sys.argv[1])
    threading.Thread(target=_end_with_the_caller, daemon=True).start()
    _log_to(send, job["log_level"])
    try:
        facts = _build(job, send)
    except DeepCacheError as error:
        send("failed", message=str(error))
    else:
        send("built", **facts)


def _events() -> Send:
    """A function that writes one event; whatever else is printed goes to stderr from now on."""
    stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    lock = threading.Lock()

    def send(event: str, **content: Any) -> None:
        with lock:
            stream.write(json.dumps({"event": event, **content}) + "\n")
            stream.flush()

    return send


def _end_with_the_caller() -> None:
    sys.stdin.read()
    os._exit(1)


def _log_to(send: Send, level: int) -> None:
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            # Polygraphy repeats as critical what it raises.
            shown = logging.DEBUG if record.name == "Polygraphy" else record.levelno
            if shown >= level:
                send("log", level=shown, text=record.getMessage())

    logging.basicConfig(handlers=[Handler()], level=level)


def _build(job: Mapping[str, Any], send: Send) -> dict[str, Any]:
    from polygraphy.backend.trt import EngineBytesFromNetwork
    from polygraphy.exception import PolygraphyException
    from polygraphy.logger import G_LOGGER

    G_LOGGER.use_python_logging_system = True
    trt = versions.load(job["backend"])
    graph = Path(job["graph"])
    started = time.perf_counter()
    builder = trt.Builder(versions.logger(trt))
    network, parser = _parse(trt, builder, graph)
    config = _configure(trt, builder, network, job, send)
    is_quantized = quantized_layers.is_quantized(trt, network)
    if is_quantized:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or it tells no more than names
    build = EngineBytesFromNetwork((builder, network, parser), lambda *_: config, save_timing_cache=job["timing_cache"])
    with versions.errors_of(trt) as errors:
        try:
            serialized = build()
        except PolygraphyException as error:
            raise _failure(graph, errors) from error
    with partial_file(Path(job["path"])).open("wb") as file:
        file.write(serialized)
    return {
        "tensorrt": trt.__version__,
        "strongly_typed": versions.is_strongly_typed(trt),
        "builder_flags": [name for name, flag in trt.BuilderFlag.__members__.items() if config.get_flag(flag)],
        "built_for": job["target"] or "the GPU of this machine",
        "layers": network.num_layers,
        "profiles": config.num_optimization_profiles,
        "optimization_level": config.builder_optimization_level,
        "workspace_bytes": job["options"]["workspace_bytes"],
        "refittable": job["options"]["refittable"],
        "plan_bytes": serialized.nbytes,
        "seconds": round(time.perf_counter() - started, 2),
        **(quantized_layers.facts(graph, versions.logger(trt).layers) if is_quantized else {}),
    }


def _parse(trt: Any, builder: Any, graph: Path) -> tuple[Any, Any]:
    network = builder.create_network(versions.network_flags(trt))
    parser = trt.OnnxParser(network, versions.logger(trt))
    if parser.parse_from_file(str(graph)):
        return network, parser
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    if not errors:
        raise BackendError(f"TensorRT cannot read {graph.name}; build it again")
    lines = [_describe(error, graph) for error in errors]
    raise BackendError(f"TensorRT {trt.__version__} cannot take {graph.name}: {'; '.join(lines[:5])}")


def _describe(error: Any, graph: Path) -> str:
    name, operator = versions.node_of(error, graph)
    text = "; ".join(versions.told(error.desc().splitlines()))
    return f"node {name!r} ({operator}): {text}" if operator else text


def _configure(trt: Any, builder: Any, network: Any, job: Mapping[str, Any], send: Send) -> Any:
    from polygraphy.backend.tensorrt_rtx import CreateConfigRTX
    from polygraphy.backend.trt import CreateConfig
    from polygraphy.exception import PolygraphyException

    options, graph = job["options"], Path(job["graph"])
    common = {
        "profiles": _profiles(network, job),
        "refittable": options["refittable"],
        "builder_optimization_level": options["optimization_level"],
        "progress_monitor": _monitor(trt, send) if versions.has_progress(trt) else None,
    }
    if options["workspace_bytes"] is not None:
        common["memory_pool_limits"] = {trt.MemoryPoolType.WORKSPACE: options["workspace_bytes"]}
    if job["backend"] == "tensorrt-rtx":
        create = CreateConfigRTX(**common, **_rtx_target(job["target"]))
    else:
        cache = job["timing_cache"] if job["timing_cache"] and Path(job["timing_cache"]).exists() else None
        flags = {**versions.precision_flags(trt, network), "preview_features": versions.preview_features(trt)}
        create = CreateConfig(**common, **flags, load_timing_cache=cache)
    with versions.errors_of(trt) as errors:
        try:
            config = create(builder, network)
        except PolygraphyException as error:
            errors.append(first_line(error))
            raise _failure(graph, errors) from error
        config.clear_flag(trt.BuilderFlag.TF32)  # Polygraphy does so for TensorRT alone
        for flag in versions.capture_flags(trt):
            config.set_flag(flag)
    if config.num_optimization_profiles != len(job["profiles"]):
        raise _failure(graph, errors)
    return config


def _rtx_target(target: str | None) -> dict[str, Any]:
    if target is None:
        return {"use_gpu": True}
    number = int(target.removeprefix("sm"))
    return {"compute_capabilities": [divmod(number, 10)]}


def _profiles(network: Any, job: Mapping[str, Any]) -> list[Any]:
    """What TensorRT wants for each profile: three shapes of each input."""
    from polygraphy.backend.trt import Profile

    specs = {data["name"]: TensorSpec(**{**data, "shape": tuple(data["shape"])}) for data in job["inputs"]}
    names = [network.get_input(index).name for index in range(network.num_inputs)]
    unknown = [name for name in names if name not in specs]
    assert not unknown, f"inputs of the graph without a spec: {unknown}"
    found = []
    for data in job["profiles"]:
        profile, shapes = ShapeProfile.from_json(data), Profile()
        for name in names:
            at = {point: specs[name].resolve(profile.at(point)) for point in ("min", "opt", "max")}
            shapes.add(name, **at)
        found.append(shapes)
    return found


def _failure(graph: Path, errors: list[str]) -> BackendError:
    text = versions.reason(errors)
    cure = next((cure for words, cure in _CURES.items() if words in text.lower()), None)
    return BackendError(f"TensorRT cannot build {graph.name}: {text}{f'; {cure}' if cure else ''}")


def _monitor(trt: Any, send: Send) -> Any:
    """Sends the share of the build that is done. TensorRT nests phases of steps; their lengths are not known."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # TensorRT has no types
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.phases: dict[str, tuple[int, int]] = {}  # steps done and all, from the outermost phase inwards
            self.sent = 0.0

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.phases[phase] = (0, steps)
            self.tell()

        def step_complete(self, phase: str, step: int) -> bool:
            self.phases[phase] = (step + 1, self.phases[phase][1])
            if time.monotonic() - self.sent > _SECONDS_BETWEEN_REPORTS:
                self.tell()
            return True

        def phase_finish(self, phase: str) -> None:
            self.phases.pop(phase, None)

        def tell(self) -> None:
            share = 0.0
            for done, steps in reversed(self.phases.values()):
                share = min((done + share) / steps, 1.0)
            self.sent = time.monotonic()
            send("progress", done=round(share, 4), total=1.0, detail=list(self.phases)[-1].lower())

    return Monitor()


if __name__ == "__main__":
    main()
