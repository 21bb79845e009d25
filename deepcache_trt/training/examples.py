"""What a router is trained on: latents of real images, and what the model is called with for each."""

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from deepcache_trt.errors import DeepCacheError, UnsupportedError
from deepcache_trt.models.architecture import Architecture
from deepcache_trt.models.calls import tensors_from_call
from deepcache_trt.training.pair_loss import Tensors

Label = int | str  # a class, or a prompt

_GUIDED, _UNGUIDED = 2.0, 1.0  # guidance scales, of which the first calls the model with and without its condition


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Latents, and the conditions that they share.

    Attributes:
        latents: [N, C, H, W] float32, scaled as the model takes them.
        rows: [N] int64, which condition each has.
        conditions: of each input of the model, [conditions + 1, …], the last row for none; without any where the model
            takes none.
    """

    latents: torch.Tensor
    rows: torch.Tensor
    conditions: Tensors = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.latents) != len(self.rows) or not len(self.latents):
            raise DeepCacheError(
                f"{len(self.latents)} latents with {len(self.rows)} conditions are no data to train on"
            )
        if not bool(self.latents.isfinite().all()):
            raise DeepCacheError("the latents of the data are not all finite; make them again, in float32")

    def batch(self, size: int, drop: float, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, Tensors]:
        """Latents and noise, [size, C, H, W] both, and conditions, of which a share is dropped."""
        chosen = torch.randint(len(self.latents), (size,), generator=generator)
        dropped = torch.rand(size, generator=generator) < drop
        rows = torch.where(dropped, -1, self.rows[chosen])
        latents = self.latents[chosen]
        noise = torch.randn(latents.shape, generator=generator)
        return latents, noise, {name: table[rows] for name, table in self.conditions.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """Images or latents with their labels, before a pipeline has seen them.

    Attributes:
        tensors: batches of images [B, 3, H, W] in -1…1, or of latents [B, C, H, W].
        labels: of each image.
        encoded: whether they are latents.
    """

    tensors: Iterable[torch.Tensor]
    labels: Sequence[Label]
    encoded: bool = False


def examples_of(pipe: Any, model: Any, architecture: Architecture, source: Source, seed: int) -> Examples:
    """Encode the images with a pipeline's VAE, and the labels as the pipeline itself does.

    Args:
        pipe: a plain one, on the device to encode on.
        model: its denoiser.
        architecture: of the denoiser.
        source: of the data.
        seed: of what the VAE draws.

    Raises:
        UnsupportedError: the pipeline takes more than prompts or classes.
        DeepCacheError: data that do not fit the model.
    """
    known = {label: row for row, label in enumerate(dict.fromkeys(source.labels))}
    conditions = {name: table.cpu() for name, table in conditions_of(pipe, model, architecture, list(known)).items()}
    generator = torch.Generator().manual_seed(seed)
    latents = torch.cat([each if source.encoded else encode(pipe, each, generator) for each in source.tensors]).float()
    (spec,) = (each for each in architecture.inputs if each.name == "sample")
    if latents.shape[1] != spec.shape[1]:
        raise DeepCacheError(
            f"the latents of the data have {latents.shape[1]} channels, and the model takes {spec.shape[1]}; "
            "encode them with the VAE of this model"
        )
    return Examples(
        latents=latents, rows=torch.tensor([known[label] for label in source.labels]), conditions=conditions
    )


@torch.no_grad()
def encode(pipe: Any, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Latents of images [B, 3, H, W] in -1…1, on the CPU; a model whose latents are pixels has them as they are."""
    vae = getattr(pipe, "vae", None)
    if vae is None:
        return images
    posterior = vae.encode(images.to(vae.device, vae.dtype)).latent_dist
    mean, spread = posterior.mean.float().cpu(), posterior.std.float().cpu()
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    drawn = mean + spread * torch.randn(mean.shape, generator=generator)
    latents: torch.Tensor = (drawn - shift) * vae.config.scaling_factor
    return latents


class _HeardError(Exception):
    """Ends a call of a pipeline once its denoiser has been called."""


def conditions_of(pipe: Any, model: Any, architecture: Architecture, known: Sequence[Label]) -> Tensors:
    """What a pipeline calls its denoiser with for each of the known labels, and last for none.

    Raises:
        UnsupportedError: it takes neither prompts nor classes, or calls its denoiser with more than the graph has.
        DeepCacheError: labels of the other kind.
    """
    options: dict[str, Any] = {"num_inference_steps": 2, "output_type": "latent"}
    parameters = inspect.signature(type(pipe).__call__).parameters
    if not architecture.is_guided:
        return {}
    if "class_labels" in parameters:
        _check_labels(pipe, known, int)
        called = _heard(pipe, model, architecture, class_labels=list(known), guidance_scale=_GUIDED, **options)
        # The second half of a guided call is without the condition.
        return {name: table[: len(known) + 1] for name, table in called.items()}
    if "prompt" not in parameters or "image" in parameters:
        raise UnsupportedError(f"a {type(pipe).__name__} takes more than prompts or classes; take another model")
    _check_labels(pipe, known, str)
    return _heard(pipe, model, architecture, prompt=[*known, ""], guidance_scale=_UNGUIDED, **options)


def _check_labels(pipe: Any, known: Sequence[Any], kind: type) -> None:
    wanted = {int: "classes, as the array 'labels' of an .npz file or as folders", str: "prompts"}[kind]
    if wrong := [label for label in known if not isinstance(label, kind)]:
        raise DeepCacheError(f"a {type(pipe).__name__} is trained for with {wanted}, and the data has {wrong[0]!r}")


def _heard(pipe: Any, model: Any, architecture: Architecture, **call: Any) -> Tensors:
    """What the denoiser is called with at the first step, but for latents and timestep."""
    heard: dict[str, Any] = {}

    def hear(module: Any, args: Any, kwargs: Any) -> None:
        heard.update(inspect.signature(type(model).forward).bind(module, *args, **kwargs).arguments)
        raise _HeardError

    handle = model.register_forward_pre_hook(hear, with_kwargs=True)
    try:
        pipe(**call)
    except _HeardError:
        pass
    finally:
        handle.remove()
    del heard["self"]
    tensors = tensors_from_call(architecture, model, heard)
    return {name: tensor for name, tensor in tensors.items() if name not in ("sample", "timestep")}
