"""The systems that ours is compared with on one picture: plain diffusers, eager or compiled, and the DeepCache package.

Each of these functions is a factory for `turns.System`; ours is in `our_system`. The figures of a call are
"loop_seconds", from before the pipeline's first call of its U-Net to after its last scheduler step, "text_seconds" of
encoding the prompt and "decoder_seconds" of the VAE; a GPU is waited for at both ends of each. The first call also
tells the "packages" of the process and, on a GPU, "gpu_bytes", what it holds there.
"""

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepcache_trt.benchmarks.timing.turns import System
from deepcache_trt.progress import quiet_libraries
from deepcache_trt.tensors import PROMPT_TOKENS

_PACKAGES = ("torch", "diffusers", "transformers")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What every system draws, from the same noise, with DDIM.

    Attributes:
        folder: of a pipeline of Stable Diffusion, SDXL included; where it has no text encoder, the prompt is seeded
            embeddings.
        dtype: of the pipeline.
        pixels: height and width.
        steps: of denoising.
        latents: a file, .npy: the first call's final latents, [B, C, H/8, W/8] float32, are put there.
        batch: B: images of one call.
        device: "cpu" or "cuda".
        guidance: classifier-free guidance's scale.
        seed: of the first image's noise; those of the others count up.
        prompt: for a text encoder.
    """

    folder: str
    dtype: str
    pixels: int
    steps: int
    latents: str
    batch: int = 1
    device: str = "cpu"
    guidance: float = 7.5
    seed: int = 0
    prompt: str = "a handwritten seven"


def system(
    factory: Callable[..., Any], picture: Picture, *, name: str, rounds: int, python: str = "", **arguments: Any
) -> System:
    """A system of this module.

    Args:
        factory: one of the functions below.
        picture: what it draws.
        name: of the system.
        rounds: images after the first.
        python: the interpreter of another environment for it; "": this one.
        arguments: of the factory, beside the picture.
    """
    return System(
        name=name,
        factory=f"{factory.__module__}:{factory.__name__}",
        arguments={"picture": asdict(picture), **arguments},
        rounds=rounds,
        python=python,
    )


class Drawing:
    """Draws the picture with a pipeline when it is called."""

    def __init__(self, picture: Picture, pipeline_class: Any, options: Mapping[str, Any] | None = None) -> None:
        """Load the pipeline with `from_pretrained` of a class, to which `options` go too."""
        from diffusers import DDIMScheduler

        self._free_before = _free_bytes(picture.device)
        pipe = _load(pipeline_class, picture, options or {})
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
        self.pipe = pipe
        self._picture = picture
        self._prompt = _prompt(pipe, picture)
        self._seconds: dict[str, float] = {}  # what the last call took
        self._is_first = True
        pipe.vae.decode = self._timed("decoder_seconds", self._keeping_latents(pipe.vae.decode))
        if pipe.text_encoder is not None:
            pipe.encode_prompt = self._timed("text_seconds", pipe.encode_prompt)

    def __call__(self) -> dict[str, Any]:
        """One call of the pipeline."""
        picture, seeds = self._picture, range(self._picture.seed, self._picture.seed + self._picture.batch)
        clock = LoopClock(self._wait)
        self.pipe.progress_bar = clock  # a cached pipeline puts its own back after each call
        self._seconds.clear()
        self.pipe(
            **self._prompt,
            height=picture.pixels,
            width=picture.pixels,
            num_inference_steps=picture.steps,
            guidance_scale=picture.guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        )
        self._wait()
        figures: dict[str, Any] = {"loop_seconds": clock.seconds, **self._seconds}
        if self._is_first:
            figures["packages"] = {name: version(name) for name in _PACKAGES}
        if self._is_first and picture.device == "cuda":  # others may be loaded from now on
            figures["gpu_bytes"] = self._free_before - _free_bytes(picture.device)
        self._is_first = False
        return figures

    def _wait(self) -> None:
        """Until the device has done what it was told."""
        if self._picture.device == "cuda":
            torch.cuda.synchronize()

    def _timed(self, figure: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._wait()
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._wait()
                self._seconds[figure] = time.perf_counter() - started

        return timed

    def _keeping_latents(self, decode: Callable[..., Any]) -> Callable[..., Any]:
        """Save the latents of the first call before they are decoded."""
        file, factor = Path(self._picture.latents), self.pipe.vae.config.scaling_factor

        @functools.wraps(decode)
        def keep_and_decode(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if self._is_first:
                np.save(file, (latents.float() * factor).cpu().numpy())
            return decode(latents, *args, **kwargs)

        return keep_and_decode


class LoopClock:
    """Stands for a pipeline's progress bar, which is opened right before the denoising loop and closed right after."""

    def __init__(self, wait: Callable[[], None] = lambda: None) -> None:
        self.seconds = 0.0
        self.n, self.total = 0, 1
        self._wait = wait

    def __call__(self, iterable: Any = None, total: int | None = None) -> "LoopClock":
        """What a pipeline calls before its loop."""
        self.total = total or 1
        return self

    def __enter__(self) -> "LoopClock":
        self._wait()
        self._started = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self._wait()
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
        return {"prompt": [picture.prompt] * picture.batch}
    width = pipe.unet.config.cross_attention_dim
    embeds = torch.randn((2, 1, PROMPT_TOKENS, width), generator=torch.Generator().manual_seed(picture.seed))
    positive, negative = embeds.to(pipe.unet.dtype).repeat(1, picture.batch, 1, 1).to(picture.device)
    return {"prompt_embeds": positive, "negative_prompt_embeds": negative}


def diffusers(picture: Mapping[str, Any]) -> Drawing:
    """Plain diffusers, eager."""
    from diffusers import DiffusionPipeline

    return Drawing(Picture(**picture), DiffusionPipeline)


def compiled(picture: Mapping[str, Any]) -> Drawing:
    """Diffusers with its U-Net in torch.compile, uncached; on a GPU in the CUDA graphs that it records."""
    drawing = diffusers(picture)
    mode = "reduce-overhead" if drawing.pipe.device.type == "cuda" else None
    drawing.pipe.unet = torch.compile(drawing.pipe.unet, fullgraph=True, dynamic=False, mode=mode)
    return drawing


def deepcache(picture: Mapping[str, Any], *, interval: int, branch: int) -> Drawing:
    """The DeepCache package on eager diffusers."""
    from DeepCache import DeepCacheSDHelper

    drawing = diffusers(picture)
    helper = DeepCacheSDHelper(pipe=drawing.pipe)
    helper.set_params(cache_interval=interval, cache_branch_id=branch)
    helper.enable()
    return drawing


def _load(pipeline_class: Any, picture: Picture, options: Mapping[str, Any]) -> Any:
    quiet_libraries()
    without: dict[str, Any] = {}
    if not (Path(picture.folder) / "tokenizer").is_dir():
        without = {"text_encoder": None, "tokenizer": None}
    dtype = getattr(torch, picture.dtype)
    pipe = pipeline_class.from_pretrained(picture.folder, dtype=dtype, use_safetensors=True, **without, **options)
    if pipe.unet.dtype != dtype:  # older diffusers call the argument torch_dtype, and go on without this one
        pipe = pipe.to(dtype)
    return pipe.to(picture.device)


def _free_bytes(device: str) -> int:
    """The GPU's free memory; 0 without one."""
    return torch.cuda.mem_get_info()[0] if device == "cuda" else 0
