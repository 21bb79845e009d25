"""Draw with a pipeline in PyTorch, cached by the policy that will be used, and look at what its layers are given.

A cached step feeds its layers what a full one left there some steps ago, so the ranges of an uncached run are not those
of a cached one. Few steps of each kind are enough: what is looked for is how large values are.
"""

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from inspect import signature
from typing import Any

import torch

from deepcache_trt.builder.component import DENOISERS, Component
from deepcache_trt.builder.quantized.observing import observed, scales
from deepcache_trt.builder.quantized.quantized_component import quantized
from deepcache_trt.builder.quantized.quantizing import Calibration
from deepcache_trt.builder.quantized.seeded import seeded_calibration
from deepcache_trt.errors import UnsupportedError
from deepcache_trt.export.precision import Precision, precision_of
from deepcache_trt.foreign import Pipeline
from deepcache_trt.models.definitions.pipelines import TEXT, class_for_task, plain_class
from deepcache_trt.models.processors import image_projections
from deepcache_trt.pipelines.calibrating.prompts import NOISE, calibration_prompts
from deepcache_trt.pipelines.engine_options import EngineOptions
from deepcache_trt.pipelines.patched_forward import own_forwards
from deepcache_trt.progress import Progress
from deepcache_trt.runtime.policies import Policy, Uncached

_log = logging.getLogger(__name__)

_STEPS = 10

# What a call, or an attachment, leaves on a pipeline.
_OF_CALLS = ("progress_bar", "backward_loop", "last_run", "_cache_settings", "_copied_from", "_cache_enabled")


# A block in which a copy of a pipeline runs one of its components in PyTorch, on the state dict that it gives.
Within = Callable[[Pipeline], AbstractContextManager[Mapping[str, torch.Tensor]]]


def quantized_as_drawn(
    pipe: Pipeline, component: Component, options: EngineOptions, *, policy: Policy | None, within: Within
) -> Component:
    """A component of a pipeline, quantized if the options say so, with scales of what it is given as that draws.

    Nothing is drawn before they are asked for.

    The noise is seeded and the sampler is DDIM, or LCM's for pipelines of LCM, with the scheduler's betas, whatever the
    pipeline samples with, so the same checkpoint has the same scales wherever it is calibrated. A pipeline that lacks
    its text encoder, as those of random weights do, is calibrated on seeded inputs. What draws from a picture too has
    the scales of the text-to-image pipeline of its models.

    Args:
        pipe: that the component is of; it stays as it is.
        component: with adapters merged.
        options: which layers, and what is drawn for them.
        policy: how the denoiser is cached; None: not at all, and no key depends on it.
        within: see `Within`; the component is run in it.

    Raises:
        DeepCacheError: there are no prompts to draw.
        UnknownNameError: the policy wants a tap that the denoiser lacks.
    """
    precision, patterns = precision_of(options.precision), options.patterns(component.part)
    if precision is None or patterns is None:
        return component
    prompts = calibration_prompts(component.name, options.calibration_prompts)
    calibration = _calibration(pipe, component, prompts, policy=policy, within=within)
    return quantized(component, policy or Uncached(), precision, patterns, calibration)


def _calibration(
    pipe: Pipeline, component: Component, prompts: Sequence[str], *, policy: Policy | None, within: Within
) -> Calibration:
    """See `quantized_as_drawn`; without prompts on seeded inputs."""
    drawing = _drawing_class(pipe)
    takes = signature(drawing.__call__).parameters
    if not prompts or ("prompt" in takes and getattr(pipe, "text_encoder", None) is None):
        return seeded_calibration(component)
    is_text = component.architecture.tokens is not None
    given = [*prompts] if "prompt" in takes else []
    cached = "uncached" if policy is None else policy.in_words

    def observe(progress: Progress, precision: Precision) -> Mapping[str, float]:
        plain = _as_class(drawing, plain_copy(pipe))
        calls = [] if is_text else _calls(plain, component, given)
        does = f"encodes {len(given)} prompts" if is_text else f"draws {len(calls)} pictures ({cached})"
        with (
            progress(f"observing {component.title} while its pipeline {does}"),
            own_forwards(),
            within(plain) as state,
            observed(state) as seen,
            torch.no_grad(),
        ):
            for prompt in given if is_text else ():
                _encode(plain, prompt)
            for number, call in enumerate(calls):
                plain(**call, generator=torch.Generator().manual_seed(number))
        assert seen, "the component's weights were met nowhere"
        return scales(seen, precision)

    about: dict[str, Any] = {"inputs": "encoded" if is_text else "drawn", "prompts": given}
    about |= {} if is_text else {"steps": _STEPS}
    about |= {} if policy is None else {"policy": policy.to_json()}
    about |= {"images": component.form.images} if component.form.images else {}
    return Calibration(about=about, observe=observe, in_words=f"{len(given)} prompts, {cached}")


def _drawing_class(pipe: Any) -> Any:
    """The class of the pipeline, or where that wants a picture of the one that draws from prompts with its models."""
    own = plain_class(pipe)
    if not _wanted_pictures(own) or getattr(pipe, "vae", None) is None:
        return own
    # What inpaints may have a denoiser that reads a mask and a picture beside the latents.
    reads_latents = _denoiser(pipe).config.in_channels == pipe.vae.config.latent_channels
    return (class_for_task(TEXT, own, controlled=False) if reads_latents else None) or own


def _denoiser(pipe: Any) -> Any:
    return next(model for part in DENOISERS if (model := getattr(pipe, part, None)) is not None)


def _wanted_pictures(drawing: Any) -> list[str]:
    takes = signature(drawing.__call__).parameters
    return [name for name in ("image", "control_image", "mask_image", "source_prompt") if name in takes]


def _as_class(drawing: Any, plain: Any) -> Any:
    """The same models in a pipeline of another class, with the sampler of every calibration."""
    from diffusers import DDIMScheduler, LCMScheduler

    if drawing is not type(plain):
        takes = signature(drawing.__init__).parameters
        plain = drawing(**{name: part for name, part in plain.components.items() if name in takes})
        plain.set_progress_bar_config(disable=True)
    is_distilled = "original_inference_steps" in signature(drawing.__call__).parameters
    sampler: Any = LCMScheduler if is_distilled else DDIMScheduler
    plain.scheduler = sampler.from_config(plain.scheduler.config)
    if hasattr(plain, "safety_checker"):
        plain.safety_checker = None  # nobody sees what is drawn
    return plain


def plain_copy(pipe: Any) -> Any:
    """A pipeline of diffusers on the same models, that may draw while `pipe` is in the middle of an image."""
    plain = copy.copy(pipe)
    plain.__class__ = plain_class(pipe)
    for name in _OF_CALLS:
        vars(plain).pop(name, None)
    plain.scheduler = copy.deepcopy(pipe.scheduler)
    plain.set_progress_bar_config(disable=True)
    return plain


def _encode(plain: Any, prompt: str) -> None:
    encode = getattr(plain, "encode_prompt", None) or plain._encode_prompt  # what InstructPix2Pix has alone
    encode(prompt=prompt, device=plain.device, num_images_per_prompt=1, do_classifier_free_guidance=True)


def _calls(plain: Any, component: Component, prompts: Sequence[str]) -> list[dict[str, Any]]:
    """The arguments of each call, of which only whoever looks at a decoder needs more than latents.

    Raises:
        UnsupportedError: the pipeline draws from something that there is none of here, as another image.
    """
    takes = signature(type(plain).__call__).parameters
    wanted = _wanted_pictures(type(plain))
    if wanted:
        raise UnsupportedError(
            f"a {type(plain).__name__} draws from {', '.join(wanted)}, of which a calibration has none, and no "
            f"pipeline draws with its models from prompts alone; leave precision= out, or for timing only give "
            f"calibration_prompts={NOISE!r}"
        )
    if image_projections(_denoiser(plain)) and not component.form.images:
        raise UnsupportedError(
            f"the {component.part} is calibrated while its pipeline draws, and an IP-Adapter wants to be given images; "
            f"draw once with quantize=('{component.part}:…',) before load_ip_adapter, or run deepcache-trt build: its "
            f"scales are in the store then"
        )
    shared: dict[str, Any] = {"num_inference_steps": _STEPS} if "num_inference_steps" in takes else {}
    if "output_type" in takes:
        shared["output_type"] = "latent" if "prompt" in takes and component.architecture.is_denoiser else "np"
    if component.form.images:
        shared["ip_adapter_image_embeds"] = _image_embeds(component)
    if "prompt" in takes:
        return [{"prompt": prompt, **shared} for prompt in prompts]
    if "class_labels" in takes:
        return [{"class_labels": [label], **shared} for label in range(4)]
    return [{**shared} for _ in range(4)]


def _image_embeds(component: Component) -> list[torch.Tensor]:
    """Seeded ones of no picture, for each IP-Adapter, after those of nothing where guidance wants them."""
    generator = torch.Generator().manual_seed(0)
    dtype, is_guided = getattr(torch, component.dtype), component.config.get("time_cond_proj_dim") is None
    found = []
    for shape in component.form.images:
        embeds = torch.randn(1, *shape, generator=generator)
        found.append((torch.cat([torch.zeros_like(embeds), embeds]) if is_guided else embeds).to(dtype))
    return found
