"""What threads would gain from engines of their own: `python -m deepcache_trt.benchmarks.threads`.

Threads that draw with the same models wait for each other, image by image, because engines have one set of buffers. Two
such threads are timed beside two that have models and engines of their own, which is the most that a second set of
buffers could give, and beside one thread that draws all.
"""

import argparse
import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from deepcache_trt.benchmarks.machine import processor
from deepcache_trt.benchmarks.report import markdown_table
from deepcache_trt.benchmarks.timing.in_process import in_turn

ALONE, SHARED, OWN = "one thread", "two threads, shared models", "two threads, models of their own"


def seconds_per_image(backend: str, *, steps: int, images: int, rounds: int) -> dict[str, float]:
    """Of the bundled model, for each of the three ways, the median of `rounds` in turn."""
    pipes = [_pipeline(backend), _pipeline(backend)]

    def draw(pipe: Any, seed: int) -> None:
        own = copy.copy(pipe)
        own.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
        own("seven", num_inference_steps=steps, generator=torch.Generator().manual_seed(seed))

    def draw_all(*pipes: Any) -> None:
        with ThreadPoolExecutor(len(pipes)) as pool:
            list(pool.map(draw, pipes * (images // len(pipes)), range(images)))

    ways = {
        ALONE: lambda: draw_all(pipes[0]),
        SHARED: lambda: draw_all(pipes[0], pipes[0]),
        OWN: lambda: draw_all(*pipes),
    }
    return {way: seconds / images for way, seconds in in_turn(ways, rounds).items()}


def _pipeline(backend: str) -> Any:
    from deepcache_trt import DeepCachePipeline

    pipe = DeepCachePipeline.from_pretrained("digits", dtype=torch.float32, backend=backend, cache_interval=3)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def main() -> None:
    """Measure and print."""
    from deepcache_trt.progress import quiet_libraries

    parser = argparse.ArgumentParser(description="What threads would gain from engines of their own.")
    parser.add_argument("--backends", nargs="+", default=["auto"], help="which engines")
    parser.add_argument("--steps", type=int, default=20, help="denoising steps")
    parser.add_argument("--images", type=int, default=8, help="drawn in each round")
    parser.add_argument("--rounds", type=int, default=10, help="how often each way is timed")
    options = parser.parse_args()
    quiet_libraries()
    rows = []
    for backend in options.backends:
        took = seconds_per_image(backend, steps=options.steps, images=options.images, rounds=options.rounds)
        rows += [(backend, way, f"{1e3 * took[way]:.0f}", f"{took[ALONE] / took[way]:.2f}") for way in took]
    print(f"`digits`, {options.steps} steps, medians of {options.rounds} in turn, on {processor()}:\n")
    print(markdown_table(("engines", "drawn by", "ms an image", "pace"), rows))


if __name__ == "__main__":
    main()
