"""Records of `deepcache-trt bench` that a test makes up, with figures that are easy to check."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from deepcache_trt.benchmarks.bench.grid import PLAIN, Cell, Settings
from deepcache_trt.benchmarks.timing.published_table import interval_params

OURS, EAGER, COMPILED, PACKAGE = "ours (openvino)", "diffusers", "diffusers, torch.compile", "DeepCache package"

ENVIRONMENT = {"GPU": "no GPU", "CPU": "A made-up CPU, 2 threads", "memory": "16.0 GiB", "date": "2030-01-01 00:00 UTC"}

SETTINGS = Settings(
    model="sd21",
    random_weights=True,
    dtype="bfloat16",
    device="cpu",
    steps=50,
    sizes=(512,),
    batches=(8,),
    caching=(interval_params(3, 0), interval_params(5, 0)),
    systems=("ours", "deepcache", "diffusers", "compiled"),
    backends=("openvino",),
    repeats=3,
)

# Seconds of a call by column, the median of three.
SECONDS = {
    "plain": {OURS: 8.0, EAGER: 12.0, COMPILED: 10.0},
    "I=3 B=0": {OURS: 3.2, PACKAGE: 6.0},
    "I=5 B=0": {OURS: 2.0, PACKAGE: 4.0},
}

_ROW = Cell(pixels=512, batch=8, policy=PLAIN)


def outcome(name: str, seconds: float, *, error: str = "") -> dict[str, Any]:
    """Three calls, one of them slower and one faster by a tenth; a second of each is no loop."""
    samples = [
        {"seconds": each, "loop_seconds": each - 1, "text_seconds": 0.25, "decoder_seconds": 0.75}
        for each in (1.1 * seconds, seconds, 0.9 * seconds)
    ]
    return {
        "name": name,
        "error": error,
        "load_seconds": 5.0,
        "first_call_seconds": 2 * seconds,
        "first": {"packages": {"torch": "2.9", "diffusers": "0.42"}},
        "samples": [] if error else samples,
        "peak_bytes": 3 << 30,
        "peak_anonymous_bytes": 2 << 30,
        "available_bytes": 20 << 30,
    }


def record(
    seconds: Mapping[str, Mapping[str, float]] = SECONDS,
    *,
    errors: Mapping[tuple[str, str], str] | None = None,
    settings: Settings = SETTINGS,
    environment: Mapping[str, str] = ENVIRONMENT,
    factor: float = 1.0,
) -> dict[str, Any]:
    """A record of one row, 512 px, batch 8.

    Args:
        seconds: by column and system.
        errors: why a system failed, by column and system.
        settings: of the grid.
        environment: where it was measured.
        factor: of all seconds.
    """
    cells = []
    for policy, (column, systems) in zip((PLAIN, *settings.caching), seconds.items(), strict=False):
        outcomes = [
            outcome(name, factor * median, error=(errors or {}).get((column, name), ""))
            for name, median in systems.items()
        ]
        cells.append(
            {
                "cell": replace(_ROW, policy=policy).record(),
                "outcomes": outcomes,
                "alone": [],
                "fidelity": {OURS: {"max_abs": 0.5, "psnr_db": 31.25, "error": 0.125}},
                "ended": "2030-01-01 00:10 UTC",
            }
        )
    return {
        "settings": settings.record(),
        "environment": dict(environment),
        "command": "deepcache-trt bench --preset made-up",
        "builds": [
            {
                "row": _ROW.record(),
                "backend": "openvino",
                "error": "",
                "seconds": 60.0,
                "built": ["unet full (k = 0)"],
            }
        ],
        "macs": [
            {
                "pixels": 512,
                "policy": policy.to_json(),
                "variants": {
                    "full": {"weights": 90, "attention": 10},
                    "shallow": {"weights": 9, "attention": 1},
                },
            }
            for policy in settings.caching
        ],
        "references": [{"row": _ROW.record(), "name": "diffusers float32", "error": "", "seconds": 20.0}],
        "cells": cells,
    }
