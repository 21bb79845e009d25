"""The timed checks of `gpu_check`: steps and whole images, each setting in turn, medians."""

import copy
import functools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import onnx
import torch

from deepcache_trt.benchmarks.counting.macs import variant_macs
from deepcache_trt.benchmarks.fidelity.distances import image_psnr
from deepcache_trt.benchmarks.gpu_check.report import Row
from deepcache_trt.benchmarks.gpu_check.subject import BRANCH, Buffers, Subject, draw, record
from deepcache_trt.builder.engines import variants_of
from deepcache_trt.builder.graphs import GRAPH, graph_artefact
from deepcache_trt.errors import first_line
from deepcache_trt.progress import logged
from deepcache_trt.runtime.plan import FULL, SHALLOW

_WARM_UP, _STEPS, _IMAGES = 5, 30, 3
_INTERVALS = (1, 3, 5)
_PLAIN, _UNCACHED = "plain diffusers", "engines, cache_interval=1"


@torch.no_grad()
def steps(subject: Subject) -> list[Row]:
    """A full and a shallow step, an eager one of plain torch beside them, and the same as CUDA graphs."""
    engines, sizes = subject.session.engines, subject.sizes()
    buffers, inputs = Buffers(engines, sizes, subject.device), subject.inputs(sizes)
    buffers.run(FULL, inputs)
    model, architecture = subject.pipe.unet, subject.component.architecture
    actions: dict[str, Callable[[], Any]] = {
        "eager_full_ms": lambda: architecture.call(model, inputs),
        "full_ms": engines[FULL].run,
        "shallow_ms": engines[SHALLOW].run,
    }
    if subject.on_gpu and all(engine.capturable for engine in engines.values()):
        actions |= {f"{variant}_graph_ms": record(engine).replay for variant, engine in engines.items()}
    figures = medians_ms(actions, on_gpu=subject.on_gpu)
    figures |= {"ratio": figures["full_ms"] / figures["shallow_ms"], "ideal_ratio": _ideal_ratio(subject)}
    return [subject.row("steps", True, f"medians of {_STEPS}", **figures)]


def medians_ms(actions: Mapping[str, Callable[[], Any]], *, on_gpu: bool) -> dict[str, float]:
    """The time of each action, from an idle device to its last result; they take turns after a warm-up."""
    for action in actions.values():
        for _ in range(_WARM_UP):
            action()
    samples: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(_STEPS):
        for name, action in actions.items():
            samples[name].append(_on_gpu_ms(action) if on_gpu else _on_cpu_ms(action))
    return {name: statistics.median(times) for name, times in samples.items()}


def _on_gpu_ms(action: Callable[[], Any]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    action()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def _on_cpu_ms(action: Callable[[], Any]) -> float:
    started = time.perf_counter()
    action()
    return 1e3 * (time.perf_counter() - started)


def _ideal_ratio(subject: Subject) -> float:
    """How much more a full step computes than a shallow one."""
    path = graph_artefact(subject.component, subject.target.store, logged).folder / GRAPH
    graph = onnx.load(path, load_external_data=False)
    macs = variant_macs(graph, variants_of(subject.component, BRANCH), subject.sizes())
    return macs[FULL] / macs[SHALLOW]


def images(subject: Subject) -> list[Row]:
    """Whole images: plain diffusers, the DeepCache package and ours, from the same seed."""
    rows: list[Row] = []
    first: dict[str, Any] = {}
    with _settings(subject) as settings:
        for setting, action in settings.items():
            try:
                first[setting] = action()  # builds what is missing, and warms up
            except Exception as error:  # one setting costs the others nothing
                status = "missing" if isinstance(error, ImportError) else "fail"
                rows.append(subject.row("images", status, f"{setting}: {first_line(error)}"))
        if _PLAIN in first:
            seconds = _seconds({setting: settings[setting] for setting in first}, subject)
            rows += [_image_row(subject, setting, seconds, first) for setting in first]
    return rows


def _seconds(actions: Mapping[str, Callable[[], Any]], subject: Subject) -> dict[str, float]:
    """The median of each action in turn, over as many rounds as there is time for."""
    samples: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(_IMAGES):
        if number and subject.seconds_left < 2 * sum(times[-1] for times in samples.values()):
            break
        for name, action in actions.items():
            samples[name].append(_on_cpu_ms(action) / 1e3)  # an image ends on the CPU
    return {name: statistics.median(times) for name, times in samples.items()}


def _image_row(subject: Subject, setting: str, seconds: Mapping[str, float], first: Mapping[str, Any]) -> Row:
    decibels = image_psnr([first[_PLAIN]], [first[setting]])
    identical = decibels == float("inf")
    figures = {
        "setting": setting,
        "seconds": seconds[setting],
        "speedup": seconds[_PLAIN] / seconds[setting],
        "identical": identical,
        "psnr_db": None if identical else decibels,
    }
    least = subject.workload.least_psnr
    if setting == _UNCACHED and least is not None and decibels < least:
        return subject.row(
            "images", False, f"{setting}: {decibels:.0f} dB against {_PLAIN}, limit {least:g}", **figures
        )
    return subject.row("images", True, f"{setting}: {seconds[setting]:.3g} s", **figures)


@contextmanager
def _settings(subject: Subject) -> Iterator[dict[str, Callable[[], Any]]]:
    """What draws the image, by name. All share the models of one pipeline; only the DeepCache package has its U-Net."""
    from deepcache_trt import DeepCachePipeline

    cached = DeepCachePipeline.from_pipe(subject.pipe, backend=subject.backend, store=subject.target.store.root)
    package = functools.cache(lambda: _package(subject.pipe))

    def with_package(interval: int) -> Any:
        pipe, helper = package()
        helper.set_params(cache_interval=interval, cache_branch_id=BRANCH)
        return draw(subject, pipe)

    def with_engines(interval: int) -> Any:
        cached.set_cache_params(cache_interval=interval, cache_branch_id=BRANCH)
        return draw(subject, cached)

    settings: dict[str, Callable[[], Any]] = {_PLAIN: lambda: draw(subject, subject.pipe)}
    for interval in _INTERVALS[1:]:
        settings[f"DeepCache package, cache_interval={interval}"] = functools.partial(with_package, interval)
    for interval in _INTERVALS:
        settings[f"engines, cache_interval={interval}"] = functools.partial(with_engines, interval)
    try:
        yield settings
    finally:
        cached.disable_cache()


def _package(pipe: Any) -> tuple[Any, Any]:
    """A pipeline under the DeepCache package, with a U-Net of its own: the package replaces its methods."""
    from DeepCache import DeepCacheSDHelper

    components = pipe.components | {"unet": copy.deepcopy(pipe.unet)}
    copied = type(pipe)(**components, requires_safety_checker=False)
    copied.set_progress_bar_config(disable=True)
    helper = DeepCacheSDHelper(pipe=copied)
    helper.set_params()
    helper.enable()
    return copied, helper
