"""The checks of single steps: how long they take, and what their operations and the roofline of the GPU allow."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import onnx
import torch

from deepcache_trt.benchmarks.counting.cost import Cost, cost_of
from deepcache_trt.benchmarks.counting.roofline import gpu_of_device, predict
from deepcache_trt.benchmarks.gpu_check.checks.subject import Buffers, Subject, record
from deepcache_trt.benchmarks.gpu_check.rows import SKIPPED, Row
from deepcache_trt.builder.graphs import GRAPH, graph_artefact, graph_key
from deepcache_trt.builder.pieces import variants_of
from deepcache_trt.export.cut import cut
from deepcache_trt.progress import logged
from deepcache_trt.runtime.plan import FULL
from deepcache_trt.runtime.policies.deepcache import SHALLOW, DeepCache

_WARM_UP, _STEPS = 5, 30


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
    samples = samples_ms(actions, on_gpu=subject.on_gpu, seconds=subject.seconds_left / 2)
    figures = {name: statistics.median(times) for name, times in samples.items()}
    figures["ratio"] = figures["full_ms"] / figures["shallow_ms"]
    return [subject.row("steps", True, f"medians of {len(samples['full_ms'])}", **figures)]


def samples_ms(
    actions: Mapping[str, Callable[[], Any]], *, on_gpu: bool, seconds: float = float("inf")
) -> dict[str, list[float]]:
    """The times of each action, from an idle device to its last result; they take turns after a warm-up.

    Args:
        actions: by name.
        on_gpu: whether they run there.
        seconds: after which no other round begins; there is one at least.
    """
    until = time.monotonic() + seconds
    for action in actions.values():
        for _ in range(_WARM_UP):
            action()
    samples: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(_STEPS):
        if number and time.monotonic() > until:
            break
        for name, action in actions.items():
            samples[name].append(_on_gpu_ms(action) if on_gpu else _on_cpu_ms(action))
    return samples


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


def operations(subject: Subject) -> list[Row]:
    """The operations of each variant, from the graph of the store, and the seconds that the GPU's roofline allows."""
    component, store, export = subject.component, subject.target.store, subject.workload.export_seconds
    if store.find("graphs", graph_key(component)) is None and subject.seconds_left < export:
        reason = (
            f"no graph in --store, its export takes {export:.0f} s and {max(subject.seconds_left, 0):.0f} s are left"
        )
        return [subject.row("operations", SKIPPED, reason)]
    graph = onnx.load(graph_artefact(component, store, logged).folder / GRAPH, load_external_data=False)
    costs: dict[str, Cost] = {}
    for branch in sorted({params.cache_branch_id for params in subject.workload.caching}):
        for variant in variants_of(component.architecture, DeepCache(cache_branch_id=branch), component.name):
            name = variant.name if variant.name == FULL else f"{variant.name} {branch}"
            if name not in costs:
                costs[name] = cost_of(cut(graph, variant), subject.sizes())
    macs = {name: cost.macs.total for name, cost in costs.items()}
    figures: dict[str, Any] = {"macs": macs, "ratio": macs[FULL] / macs[f"{SHALLOW} 0"]}
    figures |= _roofline(subject, costs)
    detail = ", ".join(f"{name} {count / 1e9:.4g} GMACs" for name, count in macs.items())
    return [subject.row("operations", True, detail, **figures)]


def _roofline(subject: Subject, costs: Mapping[str, Cost]) -> dict[str, Any]:
    if not subject.on_gpu:
        return {"no_roofline": "no GPU"}
    device = torch.cuda.get_device_name()
    gpu = gpu_of_device(device, dtype=subject.dtype)
    if gpu is None:
        return {"no_roofline": f"no {subject.dtype} peak of {device} is known here"}
    return {
        "roofline_seconds": {name: predict(cost, gpu).seconds for name, cost in costs.items()},
        "roofline_of": gpu.name,
    }
