"""What caching does to many pictures of a bundled model, as a reader of digits sees them.

    python -m deepcache_trt.benchmarks.quality --model digits-dit --threshold 0.5 --guidance 1.5
    python -m deepcache_trt.benchmarks.quality --model digits-ddpm --images 1000 --out quality.png

Of `digits-dit` a router is set beside random masks of the same share, skipped steps, deep blocks that are reused in
every other call, and fewer steps; of `digits-ddpm` every interval and branch of DeepCache beside each other (its tables
2 and 5). All draw the same noises in turn, batch by batch. The last line has zeros for what it reuses: a figure that
does not see that would see nothing.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepcache_trt.benchmarks.counting.pipeline_counts import macs_of
from deepcache_trt.benchmarks.fidelity.digit_reader import DigitReader, real_digits, to_eight
from deepcache_trt.benchmarks.machine import processor
from deepcache_trt.benchmarks.report import markdown_table
from deepcache_trt.models.catalogue import resolve
from deepcache_trt.models.fresh import dtype_of
from deepcache_trt.models.registry import architecture_of
from deepcache_trt.pipelines.cached_denoiser import denoiser_of
from deepcache_trt.progress import quiet_libraries, shown
from deepcache_trt.runtime.policies import DeepCache, Policy, Uncached
from deepcache_trt.runtime.policies.router import COMPUTED, REUSED, Router, all_reused, masks_at, random_masks
from deepcache_trt.runtime.policies.router_file import read_router

INTERVALS = (1, 2, 3, 5, 10)
_ZEROED = "what is reused is zero"


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to draw: `is_zeroed` puts zeros in the place of what is reused."""

    name: str
    policy: Policy
    steps: int
    is_zeroed: bool = False


@dataclass
class Found:
    """What a way has drawn so far: images (N, 8, 8) in 0…16, seconds of each batch's loop, operations of an image."""

    images: list[np.ndarray] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    macs: float = 0.0


def ways_of_dit(router: Router, blocks: int) -> list[Way]:
    """A router and its rivals: as many taps at random, all of them, the deep blocks' alone, and fewer steps."""
    steps = 2 * len(router.masks)
    share = removed = router.removed
    deep = round(share * blocks)
    kept = (blocks - deep) // 2
    block_mask = 2 * COMPUTED * kept + 2 * REUSED * deep + 2 * COMPUTED * (blocks - deep - kept)
    fewer = max(2, round(steps * (1 - removed / 2)))
    masked: Mapping[str, tuple[str, ...]] = {
        "router": router.masks,
        "as many at random": random_masks(router.masks, 0),
        "as many at random, again": random_masks(router.masks, 1),
        f"blocks {kept}…{kept + deep - 1} reused": (block_mask,) * len(router.masks),
        "every sublayer reused": all_reused(router.masks),
    }
    return [
        Way(name="uncached", policy=Uncached(), steps=steps),
        *(Way(name=name, policy=Router(masks=masks), steps=steps) for name, masks in masked.items()),
        Way(name=f"uncached, {fewer} steps", policy=Uncached(), steps=fewer),
        Way(name=f"uncached, {steps // 2} steps", policy=Uncached(), steps=steps // 2),
        Way(name=f"router, {_ZEROED}", policy=router, steps=steps, is_zeroed=True),
    ]


def ways_of_ddpm(taps: int, steps: int) -> list[Way]:
    """Every interval at the branch of the paper's CIFAR-10, k = 2, and every branch at interval 5."""
    by_interval = [DeepCache(cache_interval=interval, cache_branch_id=2) for interval in INTERVALS]
    by_branch = [DeepCache(cache_interval=5, cache_branch_id=branch) for branch in range(taps)]
    policies = dict.fromkeys([*by_interval, *by_branch])
    ways = [Way(name=policy.in_words, policy=policy, steps=steps) for policy in policies]
    zeroed = DeepCache(cache_interval=5, cache_branch_id=2)
    return [*ways, Way(name=f"{zeroed.in_words}, {_ZEROED}", policy=zeroed, steps=steps, is_zeroed=True)]


def draw(pipe: Any, way: Way, first: int, count: int, guidance: float) -> torch.Tensor:
    """Pictures [count, 3, H, W] in 0…1 from the noises of the seeds `first`, `first` + 1 …; of classes in turn."""
    generators = [torch.Generator().manual_seed(first + i) for i in range(count)]
    call: dict[str, Any] = {"num_inference_steps": way.steps, "output_type": "np", "generator": generators}
    if hasattr(pipe, "unet"):
        images = pipe(batch_size=count, **call)
    else:
        images = pipe(_labels(first, count), guidance_scale=guidance, **call)
    return torch.from_numpy(images.images).permute(0, 3, 1, 2)


def _labels(first: int, count: int) -> list[int]:
    return [(first + i) % 10 for i in range(count)]


@contextmanager
def zeroed(model: Any, policy: Policy, steps: int) -> Iterator[None]:
    """For one generation in plain PyTorch: what a call's variant would reuse is zero."""
    taps = architecture_of(model, dtype=dtype_of(model)).taps
    variants = {variant.name: set(variant.consumes) for variant in policy.variants([tap.name for tap in taps])}
    plan, consumed = iter(policy.plan(steps).variants), set[str]()

    def begin(module: Any, args: Any) -> None:
        nonlocal consumed
        consumed = variants[next(plan)]

    def replace(name: str) -> Callable[..., Any]:
        def hook(module: Any, args: Any, output: Any) -> Any:
            return torch.zeros_like(output) if name in consumed else None

        return hook

    handles = [model.register_forward_pre_hook(begin)]
    handles += [model.get_submodule(tap.path).register_forward_hook(replace(tap.name)) for tap in taps]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def measure(
    cached: Any, plain: Any, ways: Sequence[Way], *, images: int, batch: int, guidance: float
) -> dict[str, Found]:
    """Draw with every way in turn, batch by batch; `guidance` is for models of classes."""
    found = {way.name: Found() for way in ways}
    for first in range(-batch, images, batch):  # the first round builds, and does not count
        for way in ways:
            if way.is_zeroed and first < 0:
                continue
            seeds = max(first, 0)
            model = denoiser_of(plain)
            if way.is_zeroed:
                with zeroed(model, way.policy, way.steps), torch.no_grad():
                    pictures = draw(plain, way, seeds, min(batch, images - seeds), guidance)
            else:
                cached.set_cache_params(policy=way.policy)
                pictures = draw(cached, way, seeds, min(batch, images - seeds), guidance)
            if first < 0:
                found[way.name].macs = _operations(cached)
                continue
            found[way.name].images.append(to_eight(pictures.numpy()))
            if not way.is_zeroed:
                seconds = cached.last_run.seconds
                part = "unet" if hasattr(cached, "unet") else "transformer"
                found[way.name].seconds.append(seconds[part] + seconds["loop"])
    return found


def _operations(pipe: Any) -> float:
    calls = macs_of(pipe)
    return sum(calls[variant] for variant in pipe.last_run.plan.variants)


def table(found: Mapping[str, Found], *, has_classes: bool) -> tuple[list[str], list[list[str]]]:
    """The header and the lines; the first way is what all are compared with."""
    reader, (_, test) = DigitReader(), real_digits()
    first = next(iter(found.values()))
    header = ["", "operations", "faster", *(["accuracy"] if has_classes else []), "Fréchet"]
    lines = []
    for name, each in found.items():
        images = np.concatenate(each.images)
        rounds = zip(first.seconds, each.seconds, strict=False)
        cells = [f"{each.macs / first.macs:.1%}" if each.macs else ""]
        cells += [f"{statistics.median(a / b for a, b in rounds):.2f}×" if each.seconds else ""]
        if has_classes:
            cells.append(f"{reader.accuracy(images, np.array(_labels(0, len(images)))):.1%}")
        lines.append([name, *cells, f"{reader.frechet(images, test.images):.3f}"])
    return header, lines


def save_figure(found: Mapping[str, Found], ways: Sequence[Way], path: Path) -> None:
    """The Fréchet distance over intervals and over branches, beside each other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    reader, (_, test) = DigitReader(), real_digits()
    distance = {way: reader.frechet(np.concatenate(found[way.name].images), test.images) for way in ways}
    caching = {way: way.policy for way in ways if isinstance(way.policy, DeepCache) and not way.is_zeroed}
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    by_interval = [(p.cache_interval, distance[w]) for w, p in caching.items() if p.cache_branch_id == 2]
    by_branch = [(p.cache_branch_id, distance[w]) for w, p in caching.items() if p.cache_interval == 5]
    labels = ("interval, at branch 2", "branch, at interval 5")
    for panel, points, label in zip(panels, (by_interval, by_branch), labels, strict=True):
        panel.plot(*zip(*sorted(points), strict=True), marker="o", color="#1a5fb4")
        panel.axhline(distance[ways[0]], color="#888888", linestyle="--", linewidth=1, label="uncached")
        panel.set(xlabel=label)
        panel.grid(color="#dddddd")
    panels[0].set(ylabel="Fréchet distance")
    panels[0].legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What caching does to many pictures of a bundled model.")
    parser.add_argument("--model", default="digits-dit", choices=("digits-dit", "digits-ddpm"), help="which")
    parser.add_argument("--images", type=int, default=1000, help="of each way")
    parser.add_argument("--batch", type=int, default=50, help="images of a call")
    parser.add_argument("--steps", type=int, default=50, help="of denoising, for digits-ddpm")
    parser.add_argument("--guidance", type=float, default=4.0, help="scale, for digits-dit")
    parser.add_argument("--router", type=Path, default=resolve("digits-dit"), help="for digits-dit [default: its own]")
    parser.add_argument("--threshold", type=float, default=0.5, help="of the router")
    parser.add_argument("--backend", default="auto", help="which engines")
    parser.add_argument("--out", type=Path, help="a figure, .png or .svg")
    options = parser.parse_args()
    quiet_libraries()
    from deepcache_trt import DeepCachePipeline

    cached: Any = DeepCachePipeline.from_pretrained(options.model, policy=Uncached(), backend=options.backend)
    plain: Any = DeepCachePipeline.from_pretrained(options.model, policy=Uncached(), backend=options.backend)
    plain.disable_cache()
    for pipe in (cached, plain):
        pipe.set_progress_bar_config(disable=True)
    has_classes = hasattr(cached, "transformer")
    if has_classes:
        router = Router(masks=masks_at(read_router(options.router).logits, options.threshold))
        ways = ways_of_dit(router, len(router.masks[0]) // 2)
    else:
        taps = architecture_of(cached.unet, dtype=dtype_of(cached.unet)).taps
        ways = ways_of_ddpm(len(taps), options.steps)
    with shown(f"drawing {options.images} images in each of {len(ways)} ways"):
        found = measure(cached, plain, ways, images=options.images, batch=options.batch, guidance=options.guidance)
    guided = f", guidance {options.guidance:g}" if has_classes else ""
    print(f"`{options.model}`, {options.images} images{guided}, on {processor()}:\n")
    print(markdown_table(*table(found, has_classes=has_classes)))
    if options.out is not None and not has_classes:
        save_figure(found, ways, options.out)


if __name__ == "__main__":
    main()
