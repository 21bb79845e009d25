"""What forms of a denoiser's engines cost beside each other: `python -m deepcache_trt.benchmarks.forms`.

A denoiser of real size with seeded weights is opened several times: its variants as engines of their own, as lists of
segments, and quantized. Each variant is run in each form in turn. What a form takes to be loaded and holds is measured
in a process of its own.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from deepcache_trt.benchmarks.machine import processor
from deepcache_trt.benchmarks.report import markdown_table
from deepcache_trt.benchmarks.timing.in_process import in_turn, own_bytes
from deepcache_trt.builder.component import Component
from deepcache_trt.builder.model_source import random_components
from deepcache_trt.builder.open_session import open_session
from deepcache_trt.builder.quantized.quantized_component import quantized
from deepcache_trt.builder.quantized.quantizing import ALL
from deepcache_trt.builder.quantized.seeded import seeded_calibration
from deepcache_trt.builder.target import Target
from deepcache_trt.engines import backends
from deepcache_trt.engines.backend import Backend
from deepcache_trt.engines.store import Store, default_root
from deepcache_trt.export.parity import example_inputs
from deepcache_trt.export.precision import INT8
from deepcache_trt.progress import quiet_libraries, shown
from deepcache_trt.runtime.policies import DeepCache, Policy, Uncached
from deepcache_trt.runtime.policies.router import COMPUTED, REUSED, Router, random_masks
from deepcache_trt.runtime.session import Session
from deepcache_trt.tensors import LATENT_PIXELS, PROMPT_TOKENS

WHOLE, SEGMENTS = "whole", "segments"
# Which layers compute in 8 bits, by pattern.
QUANTIZED: dict[str, tuple[str, ...]] = {"int8": (), "int8-all": (ALL,)}
FORMS = (WHOLE, SEGMENTS, *QUANTIZED)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model, a policy and the sizes of a call."""

    component: Component
    policy: Policy
    sizes: Mapping[str, int]


def subjects(dtype: str, side: int) -> dict[str, Subject]:
    """SD1.5 at a side in pixels, its decoder and its text encoder, and DiT-XL/2 at 256²; one guided image."""
    sd15 = {component.part: component for component in random_components("sd15", dtype=dtype)}
    (dit,) = random_components("dit-xl-2-256", dtype=dtype, parts=["transformer"])
    latent = side // LATENT_PIXELS
    sizes = {"batch": 2, "height": latent, "width": latent, "sequence": PROMPT_TOKENS}
    return {
        "sd15": Subject(component=sd15["unet"], policy=DeepCache(), sizes=sizes),
        "sd15-vae": Subject(component=sd15["vae"], policy=Uncached(), sizes={**sizes, "batch": 1}),
        "sd15-text-encoder": Subject(component=sd15["text_encoder"], policy=Uncached(), sizes={"batch": 2}),
        "dit-xl-2-256": Subject(component=dit, policy=Router(masks=(_mask(dit),)), sizes={"batch": 2}),
    }


def _mask(dit: Component) -> str:
    """As many sublayers left out as the published router for 20 steps of DDIM has, drawn at random."""
    taps = len(dit.architecture.taps)
    reused = round(0.4429 * taps)
    (mask,) = random_masks([REUSED * reused + COMPUTED * (taps - reused)], 0)
    return mask


def opened(subject: Subject, target: Target) -> Session:
    """Its engines, after one full call on seeded inputs and one of each variant."""
    session = open_session(subject.component, subject.policy, target, sizes=subject.sizes, progress=shown)
    session.begin(variants=tuple(session.variants))
    inputs = example_inputs(subject.component.architecture, subject.sizes)
    for variant in session.variants:
        session.run(variant, inputs, subject.sizes)
    return session


def in_form(subject: Subject, form: str, backend: Backend, store: Store) -> tuple[Subject, Target]:
    """A subject in one of `FORMS`, and what to build it for."""
    target = Target(backend=backend, store=store, segments=form == SEGMENTS)
    if form not in QUANTIZED:
        return subject, target
    component = subject.component
    patterns, calibration = QUANTIZED[form], seeded_calibration(component)
    return replace(subject, component=quantized(component, subject.policy, INT8, patterns, calibration)), target


def time_all(ways: Mapping[str, tuple[Subject, Target]], rounds: int) -> dict[str, float]:
    """Seconds of each variant in each form, all in turn: medians."""
    sessions = {form: opened(*way) for form, way in ways.items()}
    actions = {
        f"{variant}, {form}": partial(session.execute, session.units(variant))
        for variant in next(iter(sessions.values())).variants
        for form, session in sessions.items()
    }
    try:
        return in_turn(actions, rounds)
    finally:
        for session in sessions.values():
            session.close()


def held(subject: Subject, target: Target) -> dict[str, float]:
    """Of one form, in this process: seconds to open it, bytes that it then holds, and what its arena saves."""
    before, started = own_bytes(), time.perf_counter()
    session = opened(subject, target)
    arena = session.shape.arena
    return {
        "seconds": time.perf_counter() - started,
        "bytes": own_bytes() - before,
        "engines": len(session.engines),
        "arena": arena.size,
        "naive": arena.naive,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What forms of a denoiser's engines cost beside each other.")
    parser.add_argument("--models", nargs="+", default=["sd15", "dit-xl-2-256"], help="which")
    parser.add_argument(
        "--forms", nargs="+", default=[WHOLE, SEGMENTS], choices=FORMS, help="the first is compared with"
    )
    parser.add_argument("--size", type=int, default=256, help="side of sd15's pictures, in pixels")
    parser.add_argument("--backend", default="openvino", help="which engines")
    parser.add_argument("--dtype", default="bfloat16", help="of the weights")
    parser.add_argument("--rounds", type=int, default=10, help="how often each variant is timed in each form")
    parser.add_argument("--store", type=Path, default=default_root(), help="where engines are kept")
    parser.add_argument("--held", help=argparse.SUPPRESS)  # one form, in a process of its own
    options = parser.parse_args()
    quiet_libraries()
    torch.set_grad_enabled(False)
    backend, store = backends.resolve(options.backend, "cpu"), Store(options.store)
    if options.held:
        (model,) = options.models
        subject = subjects(options.dtype, options.size)[model]
        print(json.dumps(held(*in_form(subject, options.held, backend, store))))
        return
    for model in options.models:
        subject = subjects(options.dtype, options.size)[model]
        took = time_all({form: in_form(subject, form, backend, store) for form in options.forms}, options.rounds)
        found = {form: _in_a_process(options, model, form) for form in options.forms}
        print(report(model, took, found, options))


def _in_a_process(options: argparse.Namespace, model: str, form: str) -> dict[str, float]:
    own = ("--models", model, "--backend", options.backend, "--dtype", options.dtype, "--store", str(options.store))
    alias = ("-m", "deepcache_trt.benchmarks.forms")
    command = [sys.executable, *alias, *own, "--size", str(options.size), "--held", form]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return found


def report(
    model: str, took: Mapping[str, float], forms: Mapping[str, Mapping[str, Any]], options: argparse.Namespace
) -> str:
    """Both tables as Markdown; the others' speed is told as multiples of the first one's."""
    first, *others = forms
    variants = dict.fromkeys(name.rsplit(", ", 1)[0] for name in took)
    times = [
        (
            variant,
            *(f"{1e3 * took[f'{variant}, {form}']:.0f}" for form in forms),
            *(f"{took[f'{variant}, {first}'] / took[f'{variant}, {form}']:.2f}×" for form in others),
        )
        for variant in variants
    ]
    holds = [
        (
            form,
            f"{found['engines']}",
            f"{found['seconds']:.1f}",
            f"{found['bytes'] / 1e9:.2f}",
            f"{found['arena'] / 1e6:.1f}",
            f"{found['naive'] / 1e6:.1f}",
        )
        for form, found in forms.items()
    ]
    about = f"`{model}`, {options.dtype}, {options.backend}, medians of {options.rounds} in turn, on {processor()}:"
    return "\n\n".join(
        (
            about,
            markdown_table(("variant", *(f"{form}, ms" for form in forms), *others), times),
            markdown_table(("form", "engines", "s to open", "GB held", "MB handed on", "MB without sharing"), holds),
            "",
        )
    )


if __name__ == "__main__":
    main()
