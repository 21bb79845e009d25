"""Draw with a pipeline in PyTorch, cached by the policy that will be used, and look at what its layers are given.

A cached step feeds its layers what a full one left there some steps ago, so the ranges of an uncached run are not those
of a cached one. Few steps of each kind are enough: what is looked for is how large values are.
"""

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from inspect import Parameter, signature
from typing import Any

import torch

from deepcache_trt.builder.component import Component
from deepcache_trt.builder.quantized.observing import observed, scales
from deepcache_trt.builder.quantized.quantizing import Calibration
from deepcache_trt.builder.quantized.seeded import seeded_calibration
from deepcache_trt.errors import UnsupportedError
from deepcache_trt.export.precision import Precision
from deepcache_trt.foreign import Pipeline
from deepcache_trt.pipelines.calibrating.prompts import NOISE
from deepcache_trt.pipelines.patched_forward import own_forwards
from deepcache_trt.progress import Progress
from deepcache_trt.runtime.policies import Policy

_log = logging.getLogger(__name__)

_STEPS = 10

# What a call, or an attachment, leaves on a pipeline.
_OF_CALLS = ("progress_bar", "backward_loop", "last_run", "_cache_settings", "_copied_from", "_cache_enabled")


def drawn_calibration(
    pipe: Pipeline,
    component: Component,
    prompts: Sequence[str],
    *,
    policy: Policy | None,
    within: Callable[[Pipeline], AbstractContextManager[Mapping[str, torch.Tensor]]],
) -> Calibration:
    """Scales of what a component of a pipeline is given as it draws; nothing is drawn before they are asked for.

    The noise is seeded and the sampler is DDIM with the scheduler's betas, whatever the pipeline samples with, so the
    same checkpoint has the same scales wherever it is calibrated. A pipeline that lacks its text encoder, as those of
    random weights do, is calibrated on seeded inputs.

    Args:
        pipe: that the component is of; it stays as it is.
        component: with adapters merged.
        prompts: one a picture; none: seeded inputs in their place.
        policy: how the denoiser is cached; None: not at all, and no key depends on it.
        within: a block in which a copy of the pipeline runs the component in PyTorch, on the state dict that it gives.
    """
    takes = signature(_plain_class(pipe).__call__).parameters
    if not prompts or ("prompt" in takes and getattr(pipe, "text_encoder", None) is None):
        return seeded_calibration(component)
    given = [*prompts] if "prompt" in takes else []
    is_text = component.architecture.tokens is not None
    steps = 1 if is_text else _STEPS  # a text is encoded before the first
    cached = "uncached" if policy is None else policy.in_words

    def observe(progress: Progress, precision: Precision) -> Mapping[str, float]:
        from diffusers import DDIMScheduler

        decodes = not (is_text or component.architecture.is_denoiser)
        calls = _calls(pipe, takes, given, steps=steps, decodes=decodes)
        plain = plain_copy(pipe)
        plain.scheduler = DDIMScheduler.from_config(plain.scheduler.config)
        stage = f"observing {component.title} while it draws {len(calls)} pictures ({cached})"
        with progress(stage), own_forwards(), within(plain) as state, observed(state) as seen, torch.no_grad():
            for number, call in enumerate(calls):
                plain(**call, generator=torch.Generator().manual_seed(number))
        assert seen, "the component's weights were met nowhere"
        return scales(seen, precision)

    about = {"inputs": "drawn", "steps": steps, "prompts": given} | (
        {} if policy is None else {"policy": policy.to_json()}
    )
    return Calibration(about=about, observe=observe, in_words=f"{len(given)} prompts, {cached}")


def _plain_class(pipe: Any) -> Any:
    return getattr(pipe, "_plain_class", None) or type(pipe)


def plain_copy(pipe: Any) -> Any:
    """A pipeline of diffusers on the same models, that may draw while `pipe` is in the middle of an image."""
    plain = copy.copy(pipe)
    plain.__class__ = _plain_class(pipe)
    for name in _OF_CALLS:
        vars(plain).pop(name, None)
    plain.scheduler = copy.deepcopy(pipe.scheduler)
    plain.set_progress_bar_config(disable=True)
    return plain


def _calls(
    pipe: Any, takes: Mapping[str, Parameter], prompts: Sequence[str], *, steps: int, decodes: bool
) -> list[dict[str, Any]]:
    """The arguments of each call; what it `decodes` is of no use but to whoever looks at the decoder.

    Raises:
        UnsupportedError: the pipeline draws from something that there is none of here, as another image.
    """
    needed = [name for name in ("image", "control_image", "mask_image", "source_prompt") if name in takes]
    if needed:
        raise UnsupportedError(
            f"a {_plain_class(pipe).__name__} draws from {', '.join(needed)}, of which a calibration has none; draw "
            f"once with precision= in the text-to-image pipeline of this checkpoint, or run deepcache-trt build "
            f"--precision for it: the scales are in the store then, for this pipeline too. For timing only, give "
            f"calibration_prompts={NOISE!r}"
        )
    shared: dict[str, Any] = {"num_inference_steps": steps} if "num_inference_steps" in takes else {}
    if "output_type" in takes:
        shared["output_type"] = "latent" if "prompt" in takes and not decodes else "np"
    if "prompt" in takes:
        return [{"prompt": prompt, **shared} for prompt in prompts]
    if "class_labels" in takes:
        return [{"class_labels": [label], **shared} for label in range(4)]
    return [{**shared} for _ in range(4)]
