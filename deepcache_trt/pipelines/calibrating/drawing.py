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
from deepcache_trt.progress import Progress
from deepcache_trt.runtime.policies import Policy

_log = logging.getLogger(__name__)

_STEPS = 10

# What a call, or an attachment, leaves on a pipeline.
_OF_CALLS = ("progress_bar", "backward_loop", "last_run", "_cache_settings", "_copied_from", "_cache_enabled")


def drawn_calibration(
    pipe: Pipeline,
    component: Component,
    policy: Policy,
    prompts: Sequence[str],
    *,
    on_torch: Callable[[Pipeline], AbstractContextManager[None]],
) -> Calibration:
    """Scales of what a pipeline's denoiser is given as it draws; nothing is drawn before they are asked for.

    The noise is seeded and the sampler is DDIM with the scheduler's betas, whatever the pipeline samples with, so the
    same checkpoint has the same scales wherever it is calibrated. A pipeline that lacks its text encoder, as those of
    random weights do, is calibrated on seeded inputs.

    Args:
        pipe: that the component is of; it stays as it is.
        component: its denoiser, with adapters merged.
        policy: how it will be cached.
        prompts: one a picture; none: seeded inputs in their place.
        on_torch: within it, the denoiser of a copy of the pipeline runs in PyTorch, cached by the policy.
    """
    takes = signature(_plain_class(pipe).__call__).parameters
    if "prompt" in takes and (not prompts or getattr(pipe, "text_encoder", None) is None):
        return seeded_calibration(component)
    given = [*prompts] if "prompt" in takes else []

    def observe(progress: Progress, precision: Precision) -> Mapping[str, float]:
        from diffusers import DDIMScheduler

        calls = _calls(pipe, takes, given)
        state = dict(component.tensors())
        plain = plain_copy(pipe)
        plain.scheduler = DDIMScheduler.from_config(plain.scheduler.config)
        stage = f"observing {component.title} while it draws {len(calls)} pictures ({policy.in_words})"
        with progress(stage), observed(state) as seen, on_torch(plain), torch.no_grad():
            for number, call in enumerate(calls):
                plain(**call, generator=torch.Generator().manual_seed(number))
        assert seen, "the denoiser's weights were met nowhere"
        return scales(seen, precision)

    about = {"inputs": "drawn", "steps": _STEPS, "policy": policy.to_json(), "prompts": given}
    return Calibration(about=about, observe=observe, in_words=f"{len(given)} prompts, {policy.in_words}")


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


def _calls(pipe: Any, takes: Mapping[str, Parameter], prompts: Sequence[str]) -> list[dict[str, Any]]:
    """The arguments of each call.

    Raises:
        UnsupportedError: the pipeline draws from something that there is none of here, as another image.
    """
    needed = [name for name in ("image", "control_image", "mask_image", "source_prompt") if name in takes]
    if needed:
        raise UnsupportedError(
            f"a {_plain_class(pipe).__name__} draws from {', '.join(needed)}, of which a calibration has none; draw "
            f"once with precision= in the text-to-image pipeline of this checkpoint, or run deepcache-trt build "
            f"--precision for it: the scales are in the store then, for this pipeline too"
        )
    shared: dict[str, Any] = {"num_inference_steps": _STEPS} if "num_inference_steps" in takes else {}
    if "output_type" in takes:
        shared["output_type"] = "latent" if "prompt" in takes else "np"
    if "prompt" in takes:
        return [{"prompt": prompt, **shared} for prompt in prompts]
    if "class_labels" in takes:
        return [{"class_labels": [label], **shared} for label in range(4)]
    return [{**shared} for _ in range(4)]
