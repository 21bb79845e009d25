"""Rows, and machines, as a check of a GPU finds them."""

from typing import Any

from deepcache_trt.benchmarks.gpu_check.rows import WORKS, Row
from deepcache_trt.engines import backends


def row(check: str, status: str = "pass", **fields: Any) -> Row:
    place = {"backend": "torch", "device": "cuda", "model": "digits"}
    return Row(**{**place, "check": check, "status": status, **fields})


def about_backends(device: str) -> list[Row]:
    """What works on a machine where everything works that its device can run."""
    return [
        Row(
            backend=each.name,
            device=each.device,
            model="",
            check=WORKS,
            status="pass" if device in (each.device, "cuda") else "missing",
            detail="1.0" if device in (each.device, "cuda") else "no GPU here; get one",
        )
        for each in backends.OWN
    ]
