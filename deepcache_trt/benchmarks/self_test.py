"""Does every backend draw here? The bundled model's picture on each that works, compared with plain diffusers."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from deepcache_trt.engines import backends
from deepcache_trt.errors import DeepCacheError, without_paths
from deepcache_trt.pipelines.cached_pipeline import DeepCachePipeline
from deepcache_trt.progress import quiet_libraries

# How far apart the pictures may be, in units of the brightest white: rounding of float32, and of float16 on a GPU.
_APART = {"cpu": 0.01, "cuda": 0.05}


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What came of one backend.

    Attributes:
        name: of the backend.
        device: that it ran on.
        works: whether it drew the picture.
        detail: how far it was from that of plain diffusers, or what went wrong.
        seconds: from opening to the picture, builds included.
    """

    name: str
    device: str
    works: bool
    detail: str
    seconds: float


def self_test(store: Path | None = None) -> Iterator[Drawn]:
    """Draw with each backend that works here, uncached, as soon as it is asked for.

    Args:
        store: of the engines; None: the usual one.
    """
    quiet_libraries()
    plain: dict[str, torch.Tensor] = {}
    for finding in backends.probe_all():
        if not finding.works:
            continue
        device, started = finding.device, time.perf_counter()
        try:
            if device not in plain:
                plain[device] = _picture("torch", device, store, is_plain=True)
            error = float((_picture(finding.name, device, store) - plain[device]).abs().max())
            works, detail = error <= _APART[device], f"differs by {error:.1g} of white, of at most {_APART[device]:g}"
        except (DeepCacheError, RuntimeError, OSError) as problem:
            works, detail = False, without_paths(str(problem))
        seconds = time.perf_counter() - started
        yield Drawn(name=finding.name, device=device, works=works, detail=detail, seconds=seconds)


def _picture(backend: str, device: str, store: Path | None, *, is_plain: bool = False) -> torch.Tensor:
    """[1, 3, 64, 64] from 0 to 1."""
    dtype = torch.float16 if device == "cuda" else torch.float32
    pipe = DeepCachePipeline.from_pretrained("digits", dtype=dtype, cache_interval=1, backend=backend, store=store)
    pipe.to(device)
    pipe.set_progress_bar_config(disable=True)
    if is_plain:
        pipe.disable_cache()
    generator = torch.Generator().manual_seed(7)
    drawn = pipe("a handwritten seven", num_inference_steps=5, generator=generator, output_type="pt").images
    picture: torch.Tensor = drawn.float().cpu()
    return picture
