"""Drawing single images of a pipeline without prompts: each from a noise of its own seed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from inspect import signature
from typing import Any

import torch

from deepcache_trt.benchmarks.fidelity.scores import as_image
from deepcache_trt.benchmarks.sampling.ddim import listed_ddim, listed_timesteps
from deepcache_trt.builder.model_source import ModelSource, random_components
from deepcache_trt.errors import DeepCacheError, UnsupportedError

# The label that `DiTPipeline` gives to none, above those of ImageNet's classes.
_NO_CLASS = 1000


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """What an image depends on, beside the model and its index.

    Attributes:
        seed: of image 0; that of image i is `seed` + i.
        steps: that are asked for, see `listed_timesteps`.
        eta: η of DDIM, in 0…1.
        skip_type: how timesteps are listed.
        guidance: of a model of classes; None: the pipeline's.
        guided_channels: of a DiT's latents, the first ones, as its authors guide three; None: all.
        classes: that take turns by the index, image i being of classes[i mod their count]; none: an unconditional
            model.
    """

    seed: int
    steps: int
    eta: float = 0.0
    skip_type: str = "uniform"
    guidance: float | None = None
    guided_channels: int | None = None
    classes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise DeepCacheError(f"--eta {self.eta:g} is outside 0…1; 0 is DDIM, 1 draws as much noise as DDPM")
        for label in self.classes:
            if not 0 <= label < _NO_CLASS:
                raise DeepCacheError(f"--classes: {label} is outside 0…{_NO_CLASS - 1}, the classes of ImageNet")

    def label(self, index: int) -> int:
        """The class of an image."""
        return self.classes[index % len(self.classes)]

    def record(self) -> dict[str, Any]:
        """For JSON."""
        said = asdict(self) | {"classes": list(self.classes)}
        # Runs that were begun when there was no such choice go on.
        return {name: each for name, each in said.items() if name != "guided_channels" or each is not None}


ALL_CLASSES = tuple(range(_NO_CLASS))


class Drawer:
    """A pipeline and what is drawn with it."""

    def __init__(self, pipe: Any, sampling: Sampling) -> None:
        """Give the pipeline its scheduler.

        Raises:
            UnsupportedError: it draws from prompts, or lacks what is asked for.
            DeepCacheError: it wants classes and there are none.
        """
        listed_timesteps(sampling.skip_type, pipe.scheduler.config.num_train_timesteps, sampling.steps)
        name, takes = type(pipe).__name__, signature(type(pipe).__call__).parameters
        if "class_labels" not in takes and ("batch_size" not in takes or "prompt" in takes):
            raise UnsupportedError(
                f"a {name} draws neither by classes nor from noise alone; use `deepcache-trt generate`"
            )
        if "class_labels" in takes and not sampling.classes:
            raise DeepCacheError(f"a {name} draws classes; give --classes 207,360, or --classes all")
        given = {"class_labels": sampling.classes, "guidance_scale": sampling.guidance is not None, "eta": sampling.eta}
        options = {"class_labels": "--classes", "guidance_scale": "--guidance", "eta": "--eta"}
        for argument, value in given.items():
            if value and argument not in takes:
                raise UnsupportedError(f"a {name} takes no {argument}; leave {options[argument]} out")
        if sampling.guided_channels is not None:
            pipe = _guided(pipe, sampling.guided_channels)
        pipe.scheduler = listed_ddim(pipe.scheduler, sampling.skip_type)
        pipe.set_progress_bar_config(disable=True)
        self._pipe, self._sampling = pipe, sampling

    def draw(self, indices: Sequence[int]) -> list[Any]:
        """The images of PIL with these indices, in one batch.

        Raises:
            DeepCacheError: the pipeline refuses something, or what it draws is no picture.
        """
        given: dict[str, Any] = {"eta": self._sampling.eta} if self._sampling.eta else {}
        if self._sampling.guidance is not None:
            given["guidance_scale"] = self._sampling.guidance
        if self._sampling.classes:
            given["class_labels"] = [self._sampling.label(index) for index in indices]
        else:
            given["batch_size"] = len(indices)
        # On the CPU and one for each image, so that neither the device nor the batch changes a noise.
        generators = [torch.Generator().manual_seed(self._sampling.seed + index) for index in indices]
        try:
            drawn = self._pipe(
                num_inference_steps=self._sampling.steps, generator=generators, output_type="pt", **given
            ).images
        except DeepCacheError:
            raise
        except ValueError as error:  # how diffusers refuses an argument
            raise DeepCacheError(f"{type(self._pipe).__name__} refuses this: {error}") from error
        pictures = drawn.float().cpu().numpy()
        for index, picture in zip(indices, pictures, strict=True):
            if picture.min() != picture.min():  # the least of an image with a NaN is NaN
                raise DeepCacheError(f"image {index} holds what is no number; draw with --dtype float32")
        return [as_image(picture) for picture in pictures]


def _guided(pipe: Any, channels: int) -> Any:
    """The same pipeline, in whose latents the first channels are guided."""
    from diffusers import DiTPipeline

    from deepcache_trt.models.definitions.dit import OriginalDiTPipeline
    from deepcache_trt.pipelines.cached_pipeline import cached_class

    if not isinstance(pipe, DiTPipeline):
        raise UnsupportedError(f"a {type(pipe).__name__} guides all channels; leave --guided-channels out")
    there = getattr(pipe, "transformer").config.in_channels  # noqa: B009 - diffusers does not declare it
    if not 1 <= channels <= there:
        raise DeepCacheError(f"--guided-channels {channels} is outside 1…{there}, the channels of the latents")
    guided = cached_class(OriginalDiTPipeline).from_pipe(pipe)
    guided.guided_channels = channels
    return guided


def classes_of(pipe: Any) -> tuple[int, ...]:
    """All that a pipeline draws; none where it takes no class."""
    if "class_labels" not in signature(type(pipe).__call__).parameters:
        return ()
    denoiser = pipe.transformer if hasattr(pipe, "transformer") else pipe.class_embedder
    count = denoiser.config.get("num_embeds_ada_norm") or denoiser.config.num_classes - 1  # the last one is none
    return tuple(range(count))


def load(source: ModelSource, *, random_weights: bool, dtype: torch.dtype, device: str, options: Any) -> Any:
    """A cached pipeline; one of DDPM becomes one of DDIM, which takes η.

    Args:
        source: of the model.
        random_weights: seeded ones, in the architecture of a catalogue name.
        dtype: of the pipeline.
        device: where it is to be.
        options: of `DeepCachePipeline.from_pipe`: how to cache, and on which engines.

    Raises:
        UnsupportedError: `random_weights` of a model that draws from prompts.
    """
    import diffusers

    from deepcache_trt.pipelines.cached_pipeline import DeepCachePipeline, cached_class

    if random_weights:
        plain = _seeded(source.model, str(dtype).removeprefix("torch.")).to(device)
        return DeepCachePipeline.from_pipe(plain, **options)
    pipe = DeepCachePipeline.from_pretrained(source.model, dtype=dtype, **options, **source.pretrained_arguments())
    pipe = pipe.to(device)
    return cached_class(diffusers.DDIMPipeline).from_pipe(pipe) if isinstance(pipe, diffusers.DDPMPipeline) else pipe


def _seeded(model: str, dtype: str) -> Any:
    import diffusers

    from deepcache_trt.models.definitions.ldm import ClassEmbedder, LDMClassToImagePipeline

    parts = {each.part: each.module().eval() for each in random_components(model, dtype=dtype)}
    scheduler = diffusers.DDIMScheduler()  # the noise that both kinds were trained with is its default
    if set(parts) == {"unet"}:
        return diffusers.DDIMPipeline(**parts, scheduler=scheduler)
    if set(parts) == {"transformer", "vae"}:
        return diffusers.DiTPipeline(**parts, scheduler=scheduler)
    if set(parts) == {"unet", "vqvae"}:
        torch.manual_seed(0)
        return LDMClassToImagePipeline(**parts, class_embedder=ClassEmbedder(), scheduler=scheduler)
    raise UnsupportedError(f"{model} draws from prompts; use `deepcache-trt generate`, which wants its weights")
