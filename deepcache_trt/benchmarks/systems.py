"""The systems that are compared on one picture: ours, plain diffusers, eager or compiled, and the DeepCache package.

Each function here is a factory for `turns.System`. The figures of an image are "loop_seconds", from before the
pipeline's first call of its U-Net to after its last scheduler step, and for ours what its engines took.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepcache_trt.benchmarks.turns import System
from deepcache_trt.engines.engine import Engine
from deepcache_trt.progress import quiet_libraries

_TOKENS = 77


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What every system draws, from the same noise, with DDIM.

    Attributes:
        folder: of a pipeline of Stable Diffusion; where it has no text encoder, the prompt is seeded embeddings.
        dtype: of the pipeline.
        pixels: height and width.
        steps: of denoising.
        guidance: classifier-free guidance's scale.
        seed: of the noise.
        prompt: for a text encoder.
        latents: a file, .npy: the first image's final latents, [1, C, H/8, W/8] float32, are put there.
    """

    folder: str
    dtype: str
    pixels: int
    steps: int
    latents: str
    guidance: float = 7.5
    seed: int = 0
    prompt: str = "a handwritten seven"


def system(factory: Callable[..., Any], picture: Picture, *, name: str, rounds: int, **arguments: Any) -> System:
    """A system of this module.

    Args:
        factory: one of the functions below.
        picture: what it draws.
        name: of the system.
        rounds: images after the first.
        arguments: of the factory, beside the picture.
    """
    return System(
        name=name,
        factory=f"{factory.__module__}:{factory.__name__}",
        arguments={"picture": asdict(picture), **arguments},
        rounds=rounds,
    )


class Drawing:
    """Draws the picture with a pipeline when it is called."""

    def __init__(self, pipe: Any, picture: Picture) -> None:
        """Take over a loaded pipeline."""
        from diffusers import DDIMScheduler

        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
        self.pipe = pipe
        self._picture = picture
        self._prompt = _prompt(pipe, picture)
        self._is_first = True

    def __call__(self) -> dict[str, Any]:
        """One image."""
        if self._is_first:
            file = Path(self._picture.latents)
            keep_latents(self.pipe.vae, lambda latents: np.save(file, latents))
        self._is_first = False
        clock = LoopClock()
        self.pipe.progress_bar = clock  # a cached pipeline puts its own back after each call
        self.pipe(
            **self._prompt,
            height=self._picture.pixels,
            width=self._picture.pixels,
            num_inference_steps=self._picture.steps,
            guidance_scale=self._picture.guidance,
            generator=torch.Generator().manual_seed(self._picture.seed),
        )
        return {"loop_seconds": clock.seconds}


class LoopClock:
    """Stands for a pipeline's progress bar, which is opened right before the denoising loop and closed right after."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.n, self.total = 0, 1

    def __call__(self, iterable: Any = None, total: int | None = None) -> "LoopClock":
        """What a pipeline calls before its loop."""
        self.total = total or 1
        return self

    def __enter__(self) -> "LoopClock":
        self._started = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.perf_counter() - self._started

    def update(self, steps: int = 1) -> None:
        """Nobody looks."""


def keep_latents(vae: Any, keep: Callable[[np.ndarray], object]) -> None:
    """Give the latents [B, C, H/8, W/8] float32 of the next image to `keep` when they are decoded."""
    decode = vae.decode

    def keep_and_decode(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        keep((latents.float() * vae.config.scaling_factor).cpu().numpy())
        del vae.decode
        return decode(latents, *args, **kwargs)

    vae.decode = keep_and_decode


def _prompt(pipe: Any, picture: Picture) -> dict[str, Any]:
    if pipe.text_encoder is not None:
        return {"prompt": picture.prompt}
    width = pipe.unet.config.cross_attention_dim
    embeds = torch.randn((2, 1, _TOKENS, width), generator=torch.Generator().manual_seed(picture.seed))
    positive, negative = embeds.to(pipe.unet.dtype)
    return {"prompt_embeds": positive, "negative_prompt_embeds": negative}


def diffusers(picture: Mapping[str, Any]) -> Drawing:
    """Plain diffusers, eager."""
    from diffusers import StableDiffusionPipeline

    chosen = Picture(**picture)
    return Drawing(_load(StableDiffusionPipeline, chosen), chosen)


def compiled(picture: Mapping[str, Any]) -> Drawing:
    """Diffusers with its U-Net in torch.compile, uncached."""
    drawing = diffusers(picture)
    drawing.pipe.unet = torch.compile(drawing.pipe.unet, fullgraph=True, dynamic=False)
    return drawing


def deepcache(picture: Mapping[str, Any], *, interval: int, branch: int) -> Drawing:
    """The DeepCache package on eager diffusers."""
    from DeepCache import DeepCacheSDHelper

    drawing = diffusers(picture)
    helper = DeepCacheSDHelper(pipe=drawing.pipe)
    helper.set_params(cache_interval=interval, cache_branch_id=branch)
    helper.enable()
    return drawing


def ours(
    picture: Mapping[str, Any], *, backend: str, interval: int, branch: int, store: str, keep_torch_weights: bool
) -> Callable[[], dict[str, Any]]:
    """Our pipeline; beside "loop_seconds" it gives the figures of `_engine_figures`."""
    from deepcache_trt import DeepCachePipeline

    chosen = Picture(**picture)
    options = {"backend": backend, "store": store, "keep_torch_weights": keep_torch_weights}
    pipe = _load(DeepCachePipeline, chosen, cache_interval=interval, cache_branch_id=branch, **options)
    drawing = Drawing(pipe, chosen)
    runs: dict[str, list[float]] = {}  # of the last image, by variant

    def draw() -> dict[str, Any]:
        for seconds in runs.values():
            seconds.clear()
        figures = drawing()
        if not runs:
            runs.update(_timed_engines(pipe))
            return figures
        return figures | _engine_figures(pipe, runs)

    return draw


def _timed_engines(pipe: Any) -> dict[str, list[float]]:
    """From now on, the seconds of each run of a variant's engine."""
    runs: dict[str, list[float]] = {}
    # What a pipeline says about its last run has no single engine.
    for variant, engine in pipe._cached_denoiser.first_call.session.engines.items():
        runs[variant] = []
        engine.run = _timed(engine, runs[variant])
    return runs


def _timed(engine: Engine, seconds: list[float]) -> Callable[[], None]:
    run = engine.run

    def timed() -> None:
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)

    return timed


def _engine_figures(pipe: Any, runs: Mapping[str, list[float]]) -> dict[str, Any]:
    """What the engines did in the last image.

    "way", and with "last_run_" before them the pipeline's own account of its seconds; "engines_seconds" of all calls of
    the denoiser; and of each variant how often it ran and the median of its runs.
    """
    figures: dict[str, Any] = {f"last_run_{name}_seconds": value for name, value in pipe.last_run.seconds.items()}
    figures |= {"way": pipe.last_run.way, "engines_seconds": sum(sum(seconds) for seconds in runs.values())}
    for variant, seconds in runs.items():
        figures[f"{variant}_runs"] = len(seconds)
        figures[f"{variant}_seconds"] = statistics.median(seconds) if seconds else None
    return figures


def _load(pipeline_class: Any, picture: Picture, **options: Any) -> Any:
    quiet_libraries()
    if not (Path(picture.folder) / "tokenizer").is_dir():
        options |= {"text_encoder": None, "tokenizer": None}
    return pipeline_class.from_pretrained(
        picture.folder, dtype=getattr(torch, picture.dtype), use_safetensors=True, **options
    )
