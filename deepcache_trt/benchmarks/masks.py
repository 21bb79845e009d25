"""What a router's masks gain at real size, of what operations allow: `python -m deepcache_trt.benchmarks.masks`.

A DiT with seeded weights is opened as segments for as many masks, that leave out as large a share of its sublayers, as
the published routers have (Learning-to-Cache, section 4); which sublayers, is drawn. Its full call and each mask are
run in turn, and a generation's time is the sum of its calls.
"""

import argparse
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx
import torch

from deepcache_trt.benchmarks.counting.macs import ideal_speedup, variant_macs
from deepcache_trt.benchmarks.machine import processor
from deepcache_trt.benchmarks.report import markdown_table
from deepcache_trt.benchmarks.timing.in_process import in_turn, own_bytes
from deepcache_trt.builder.component import Component
from deepcache_trt.builder.graphs import GRAPH, graph_artefact
from deepcache_trt.builder.model_source import random_components
from deepcache_trt.builder.open_session import open_session
from deepcache_trt.builder.target import Target
from deepcache_trt.engines import backends
from deepcache_trt.engines.store import Store, default_root
from deepcache_trt.export.parity import example_inputs
from deepcache_trt.progress import quiet_libraries, shown
from deepcache_trt.runtime.plan import FULL
from deepcache_trt.runtime.policies import Policy, Uncached
from deepcache_trt.runtime.policies.router import COMPUTED, REUSED, Router
from deepcache_trt.runtime.session import Session


@dataclass(frozen=True, kw_only=True)
class Published:
    """A router of DiT-XL/2 at 256²: its calls, the share of the sublayers that its cached calls reuse, its masks."""

    calls: int
    share: float
    masks: int


ROUTERS = (Published(calls=20, share=0.4429, masks=7), Published(calls=50, share=0.4743, masks=14))


def like(published: Published, taps: int) -> Router:
    """A router with as many calls, distinct masks, and as large a share in each, of sublayers that are drawn."""
    dice, reused = random.Random(0), round(published.share * taps)
    letters = [REUSED] * reused + [COMPUTED] * (taps - reused)
    masks = ["".join(dice.sample(letters, taps)) for _ in range(published.masks)]
    return Router(masks=tuple(masks[i % len(masks)] for i in range(published.calls // 2)))


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What a generation gains over one without a cache, by the clock and by operations."""

    calls: int
    share: float
    masks: int
    measured: float
    allowed: float


def measure(component: Component, published: Published, target: Target, rounds: int) -> Gain:
    """Time each variant in turn, on one guided image."""
    sizes, policy = {"batch": 2}, like(published, len(component.architecture.taps))
    session = _opened(component, policy, target)
    try:
        actions = {name: partial(session.execute, session.units(name)) for name in session.variants}
        seconds = in_turn(actions, rounds)
    finally:
        session.close()
    graph = onnx.load(graph_artefact(component, target.store, shown).folder / GRAPH, load_external_data=False)
    names = [tap.name for tap in component.architecture.taps]
    macs = variant_macs(graph, policy.variants(names), sizes)
    calls = Counter(policy.plan(published.calls).variants)
    return Gain(
        calls=published.calls,
        share=policy.removed,
        masks=len(set(policy.masks)),
        measured=ideal_speedup(seconds, calls),
        allowed=ideal_speedup(macs, calls),
    )


def held(component: Component, policy: Policy, target: Target) -> int:
    """Bytes that this process has more of when the engines of a policy are open."""
    before = own_bytes()
    session = _opened(component, policy, target)
    assert session.variants
    return own_bytes() - before


def _opened(component: Component, policy: Policy, target: Target) -> Session:
    sizes = {"batch": 2}
    session = open_session(component, policy, target, sizes=sizes, progress=shown)
    session.begin(variants=tuple(session.variants))
    inputs = example_inputs(component.architecture, sizes)
    for variant in (FULL, *(name for name in session.variants if name != FULL)):
        session.run(variant, inputs, sizes)
    return session


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What masks gain of what operations allow.")
    parser.add_argument("--model", default="dit-xl-2-256", help="which")
    parser.add_argument("--backend", default="openvino", help="which engines")
    parser.add_argument("--dtype", default="bfloat16", help="of the weights")
    parser.add_argument("--rounds", type=int, default=5, help="how often each variant is timed")
    parser.add_argument("--store", type=Path, default=default_root(), help="where engines are kept")
    parser.add_argument("--held", type=int, help=argparse.SUPPRESS)  # calls; 0: one engine; in a process of its own
    options = parser.parse_args()
    quiet_libraries()
    torch.set_grad_enabled(False)
    (component,) = random_components(options.model, dtype=options.dtype, parts=["transformer"])
    target = Target(backend=backends.resolve(options.backend, "cpu"), store=Store(options.store))
    if options.held is not None:
        taps = len(component.architecture.taps)
        policies = {each.calls: like(each, taps) for each in ROUTERS}
        print(json.dumps(held(component, policies.get(options.held, Uncached()), target)))
        return
    gains = [measure(component, published, target, options.rounds) for published in ROUTERS]
    memory = {calls: _in_a_process(options, calls) for calls in (0, *(gain.calls for gain in gains))}
    print(f"`{options.model}`, {options.dtype}, {options.backend}, medians of {options.rounds}, on {processor()}:\n")
    print(report(gains, memory))


def _in_a_process(options: argparse.Namespace, calls: int) -> int:
    own = ("--model", options.model, "--backend", options.backend, "--dtype", options.dtype)
    command = [sys.executable, "-m", __spec__.name, *own, "--store", str(options.store), "--held", str(calls)]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return int(json.loads(ran.stdout.splitlines()[-1]))


def report(gains: Sequence[Gain], memory: dict[int, int]) -> str:
    """As Markdown; the memory of no calls is that of one engine of the whole model."""
    header = ("calls", "reused", "masks", "faster", "operations allow", "of that", "GB held", "of one model")
    lines = [
        (
            f"{gain.calls}",
            f"{gain.share:.1%}",
            f"{gain.masks}",
            f"{gain.measured:.3f}×",
            f"{gain.allowed:.3f}×",
            f"{gain.measured / gain.allowed:.3f}",
            f"{memory[gain.calls] / 1e9:.2f}",
            f"{memory[gain.calls] / memory[0]:.2f}",
        )
        for gain in gains
    ]
    return markdown_table(header, lines)


if __name__ == "__main__":
    main()
