"""Drawing for a comparison: the same prompts from the same noise, whatever the pipeline."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepcache_trt.benchmarks.timing.systems import LoopClock, keep_latents
from deepcache_trt.builder.model_source import ModelSource
from deepcache_trt.builder.pieces import variants_of
from deepcache_trt.engines import backends
from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models.catalogue import CATALOGUE
from deepcache_trt.models.fresh import dtype_of
from deepcache_trt.models.registry import architecture_of
from deepcache_trt.models.taps import Variant
from deepcache_trt.pipelines.cached_denoiser import denoiser_of
from deepcache_trt.pipelines.cached_pipeline import cached_class
from deepcache_trt.runtime.plan import Plan
from deepcache_trt.runtime.policies import Policy
from deepcache_trt.samplers import finest

DIGITS = CATALOGUE["digits"].prompts

# For models that are asked for nothing else.
_PROMPT = "a photograph of an astronaut riding a horse"

# Noises of one seed; below the number of prompts two seeds would share some.
_SEED = 1000


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What is drawn in one call, as one batch.

    Attributes:
        prompts: one for each picture.
        steps: of denoising.
        guidance: classifier-free guidance's scale; None: the pipeline's.
    """

    prompts: tuple[str, ...]
    steps: int
    guidance: float | None = None


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What one call gave.

    Attributes:
        latents: [B, C, H/8, W/8] float32, those that the decoder is given.
        pictures: [B, 3, H, W] float32 in 0…1; None where nothing was decoded.
        loop_seconds: from before the first call of the denoiser to after the scheduler's last step.
        seconds: of the whole call.
        plan: what each call of the denoiser ran; None where there was no engine.
    """

    latents: np.ndarray
    pictures: np.ndarray | None
    loop_seconds: float
    seconds: float
    plan: Plan | None = None


class Pipes:
    """One model, in pipelines that share its components.

    Attributes:
        plain: runs plain diffusers.
        opened: run engines, by the variants that they have open, so that going from one to another loads nothing.
        own_scheduler: the one that the model comes with.
    """

    def __init__(self, plain: Any, name: str, engines: Mapping[str, Any]) -> None:
        """Take over a cached pipeline whose cache is disabled.

        Args:
            plain: which one.
            name: of the model, for messages.
            engines: options of those that run on engines, see `EngineOptions`.
        """
        self.plain = plain
        self.opened: dict[tuple[Variant, ...], Any] = {}
        self.own_scheduler = plain.scheduler
        self._name, self._engines = name, engines
        denoiser = denoiser_of(plain)
        self._architecture = architecture_of(denoiser, dtype=dtype_of(denoiser))

    def of_class(self, choose: Callable[[Any], Any]) -> "Pipes":
        """The same components in pipelines of another class of diffusers, chosen by the present one."""
        plain = cached_class(choose(self.plain._plain_class)).from_pipe(self.plain)
        plain.disable_cache()
        return Pipes(plain, self._name, self._engines)

    @property
    def branches(self) -> int:
        """How many there are to cut at."""
        return len(self._architecture.taps)

    def variants(self, policy: Policy) -> tuple[Variant, ...]:
        """Those that a policy has of this model.

        Raises:
            UnknownNameError: it wants a tap that the model lacks.
        """
        return variants_of(self._architecture, policy, self._name)

    def cached(self, policy: Policy) -> Any:
        """A pipeline on engines that caches by a policy; raises as `variants`."""
        from deepcache_trt import DeepCachePipeline

        variants = self.variants(policy)
        if variants not in self.opened:
            self.opened[variants] = DeepCachePipeline.from_pipe(self.plain, policy=policy, **self._engines)
        pipe = self.opened[variants]
        pipe.set_cache_params(policy=policy)
        return pipe


def load_pipes(
    source: ModelSource,
    *,
    policies: Iterable[Policy],
    backend: str,
    dtype: str | None = None,
    store: Path | None = None,
    quantizing: Mapping[str, Any] | None = None,
) -> Pipes:
    """Load a model once, to the device that is best for the backend.

    Args:
        source: where it comes from.
        policies: that are wanted; one that the model cannot have is told before anything is drawn.
        backend: of the engines.
        dtype: of the pipeline; None: float16 on a GPU, float32 without one.
        store: where engines are kept; None: the user's cache.
        quantizing: `precision`, `quantize` and `calibration_prompts` of `EngineOptions`; None: nothing is quantized.

    Raises:
        UnsupportedError: the pipeline takes no prompt.
        UnknownNameError: a policy wants a tap that the model lacks.
    """
    from deepcache_trt import DeepCachePipeline

    device = backends.best_device(backend)
    precision = getattr(torch, backends.dtype_or_default(dtype, device))
    engines: dict[str, Any] = {"backend": backend, "store": store, **(quantizing or {})}
    loaded = DeepCachePipeline.from_pretrained(
        source.model, dtype=precision, **engines, **source.pretrained_arguments()
    )
    plain = loaded.to(device)
    if "prompt" not in signature(type(plain).__call__).parameters:
        raise UnsupportedError(
            f"a {type(plain).__name__} takes no prompt, which is all that comparisons draw from; take another model"
        )
    plain.disable_cache()
    pipes = Pipes(plain, source.model, engines)
    for policy in policies:
        pipes.variants(policy)
    return pipes


def prompts_for(model: str, given: Sequence[str] | None) -> tuple[str, ...]:
    """The prompts that are given, or else those for a model: the ten digits for the bundled one."""
    return tuple(given or ()) or (DIGITS if model == "digits" else (_PROMPT,))


def draw(pipe: Any, scene: Scene, seed: int, *, decode: bool = True) -> Drawn:
    """Draw the scene; picture i comes from the noise of seed 1000 · `seed` + i."""
    return draw_each(pipe, scene, [_SEED * seed + i for i in range(len(scene.prompts))], decode=decode)


def draw_each(
    pipe: Any, scene: Scene, seeds: Sequence[int], *, decode: bool = True, given: Mapping[str, Any] | None = None
) -> Drawn:
    """Draw the scene; each picture comes from the noise of a seed of its own, drawn on the CPU.

    Args:
        pipe: that draws.
        scene: what.
        seeds: one for each picture.
        decode: whether pictures are wanted, or latents alone.
        given: further arguments of the pipeline's call.
    """
    kept: list[np.ndarray] = []
    clock = LoopClock()
    pipe.progress_bar = clock  # a cached pipeline puts its own back after each call
    if decode:
        keep_latents(pipe.vae, kept.append)
    started = time.perf_counter()
    images = pipe(
        list(scene.prompts),
        num_inference_steps=scene.steps,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="pt" if decode else "latent",
        **({} if scene.guidance is None else {"guidance_scale": scene.guidance}),
        **(given or {}),
    ).images
    array = images.float().cpu().numpy()
    seconds = time.perf_counter() - started
    latents, pictures = (kept[0], array) if decode else (array, None)
    run = getattr(pipe, "last_run", None)
    plan = None if run is None else run.plan
    return Drawn(latents=latents, pictures=pictures, loop_seconds=clock.seconds, seconds=seconds, plan=plan)


def solve(pipe: Any, own: Any, scene: Scene, seed: int, *, decode: bool = True) -> Drawn:
    """What all samplers approximate, from the noise of a seed; the scene's steps are not looked at.

    Args:
        pipe: that draws without a cache.
        own: the scheduler that the model comes with.
        scene: see `draw`.
        seed: likewise.
        decode: likewise.
    """
    pipe.scheduler, steps = finest(own)
    return draw(pipe, replace(scene, steps=steps), seed, decode=decode)
