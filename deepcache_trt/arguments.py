"""What a pipeline is called with: a value of which no picture can come is refused, by the name of its argument.

diffusers checks some of its arguments. What it leaves unchecked fails in the middle of a model with a message about
something else, asks for more memory than there is, or draws: a guidance of NaN compares as if there were none. Names
are those that pipelines of diffusers share; an argument that none of the kinds below names is left to them.
"""

import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from deepcache_trt.errors import ArgumentError

# What float16 holds: more makes infinity of whatever it is multiplied with.
_LARGEST = 65504

# Far more than any schedule has, and few enough that the table of a sampler for them can be made.
MOST_STEPS = 100_000

_PROMPTS = ("prompt", "prompt_2", "negative_prompt", "negative_prompt_2")
# How many pictures, or frames, there are of each; the first number is the least that there can be.
_PICTURES = ("num_images_per_prompt", "num_videos_per_prompt", "batch_size", "num_frames", "video_length")
_SIDES = ("height", "width")
_COUNTS = {**dict.fromkeys((*_PICTURES, *_SIDES, "num_inference_steps", "decode_chunk_size"), 1), "clip_skip": 0}
_NUMBERS = {
    **dict.fromkeys(
        (
            *("guidance_scale", "guidance_rescale", "image_guidance_scale", "min_guidance_scale", "max_guidance_scale"),
            *("controlnet_conditioning_scale", "control_guidance_start", "control_guidance_end", "noise_aug_strength"),
            *("fps", "motion_bucket_id", "noise_level", "denoising_start", "denoising_end", "aesthetic_score"),
        ),
        (-_LARGEST, _LARGEST),
    ),
    # The noise of DDIM with more than all of it is the root of a negative number.
    **dict.fromkeys(("eta", "strength"), (0, 1)),
}
# Of several ControlNets, each has its own.
_LISTS = ("controlnet_conditioning_scale", "control_guidance_start", "control_guidance_end")
_TENSORS = (
    *("latents", "prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"),
    *("prompt_embeds_2", "negative_prompt_embeds_2"),
)

# As float32, which is what pictures are before they are anything else.
_BYTES_OF_A_PIXEL = 3 * 4


def check_arguments(arguments: Mapping[str, Any], *, own_size: tuple[int, int], layers: int | None) -> None:
    """Refuse what no picture comes of.

    Args:
        arguments: of a call, by name, without those that are left out.
        own_size: height and width in pixels of a picture that is not asked for in another size.
        layers: how many of a text encoder's `clip_skip` can skip; None: there is none.

    Raises:
        ArgumentError: names the argument, the value, the limit and the cure.
    """
    given = dict(arguments)
    _each(given, _PROMPTS, _check_prompt)
    _each(given, _COUNTS, _check_count)
    if layers is not None and given.get("clip_skip", 0) > layers:
        raise ArgumentError(f"clip_skip must be at most {layers} with this text encoder, not {given['clip_skip']}")
    _each(given, _NUMBERS, _check_numbers)
    _each(given, _TENSORS, _check_tensor)
    _each(given, ("generator",), _check_generator)
    _each(given, ("callback", "callback_on_step_end"), _check_callback)
    _each(given, ("callback_on_step_end_tensor_inputs",), _check_names)
    _each(given, ("class_labels",), _check_labels)
    _each(given, ("cross_attention_kwargs", "added_cond_kwargs"), _check_mapping)
    _check_memory(dict(zip(_SIDES, own_size, strict=True)) | given)


def _each(given: Mapping[str, Any], names: Iterable[str], check: Callable[[str, Any], None]) -> None:
    for name in names:
        if name in given:
            check(name, given[name])


def _refused(name: str, value: Any, wanted: str) -> ArgumentError:
    import torch

    said = f"a tensor of shape {list(value.shape)}" if isinstance(value, torch.Tensor) and value.ndim else repr(value)
    return ArgumentError(f"{name} must be {wanted}, not {said if len(said) <= 80 else f'{said[:77]}...'}")


def _check_prompt(name: str, value: Any) -> None:
    # Pipelines take one prompt, or one for each image.
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not texts or not all(isinstance(text, str) for text in texts):
        raise _refused(name, value, "a text, or a list of one text for each image")
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _refused(name, text, "a text that UTF-8 can write, without halves of surrogate pairs") from None


def _check_count(name: str, value: Any) -> None:
    least = _COUNTS[name]
    # diffusers divides sides, and so takes 64.0 as well.
    is_whole = isinstance(value, numbers.Real) and not isinstance(value, bool) and value % 1 == 0
    if not is_whole:
        raise _refused(name, value, "a whole number")
    if value < least:
        raise ArgumentError(f"{name} must be at least {least}, not {value}")
    if name == "num_inference_steps" and value > MOST_STEPS:
        raise ArgumentError(f"{name} must be at most {MOST_STEPS}, not {value}")


def _check_numbers(name: str, value: Any) -> None:
    import torch

    low, high = _NUMBERS[name]
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    for number in value if isinstance(value, list | tuple) and value and name in _LISTS else [value]:
        try:
            is_finite = not isinstance(number, str | bytes) and math.isfinite(number)
        except (TypeError, OverflowError):
            is_finite = False
        if not is_finite:
            raise _refused(name, number, "a finite number")
        if not low <= number <= high:
            raise ArgumentError(f"{name} must be between {low} and {high}, not {number}")


def _check_tensor(name: str, value: Any) -> None:
    import torch

    if not isinstance(value, torch.Tensor):
        raise _refused(name, value, "a torch.Tensor")
    wrong = (
        ("empty", not value.numel()),
        ("sparse", value.layout is not torch.strided),
        ("on the device meta, which holds no numbers", value.is_meta),
        ("complex", value.is_complex()),
    )
    for what, is_so in wrong:
        if is_so:
            raise ArgumentError(f"{name} is {what} (shape {list(value.shape)}); give a dense tensor of real numbers")


def _check_generator(name: str, value: Any) -> None:
    import torch

    generators = value if isinstance(value, list | tuple) else [value]
    if not generators or not all(isinstance(each, torch.Generator) for each in generators):
        raise _refused(name, value, "a torch.Generator, or a list of one for each image")


def _check_callback(name: str, value: Any) -> None:
    if not callable(value):
        raise _refused(name, value, "a function")


def _check_names(name: str, value: Any) -> None:
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        raise _refused(name, value, "a list of names")


def _check_mapping(name: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise _refused(name, value, "a dict")


def _check_labels(name: str, value: Any) -> None:
    import torch

    labels = value.tolist() if isinstance(value, torch.Tensor) else value
    is_list = isinstance(labels, list | tuple) and len(labels) > 0
    if not is_list or not all(isinstance(each, numbers.Integral) and not isinstance(each, bool) for each in labels):
        raise _refused(name, value, "a list of whole numbers, one for each image")
    if max(map(abs, labels)) >= 1 << 31:
        raise _refused(name, value, "a list of labels that there are")


def _check_memory(given: Mapping[str, Any]) -> None:
    """Refuse pictures that alone are more than the machine holds: what draws them takes many times as much."""
    import psutil

    prompts = given.get("prompt", ())
    counts = {name: int(given[name]) for name in (*_PICTURES, *_SIDES) if name in given}
    size = math.prod(counts.values()) * (1 if isinstance(prompts, str) else max(len(prompts), 1)) * _BYTES_OF_A_PIXEL
    total = psutil.virtual_memory().total
    if size > total:
        asked = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ArgumentError(
            f"pictures of {asked} alone are {size / 1e9:.1e} GB, and this machine has {total / 1e9:.0f} GB of memory; "
            f"draw fewer at a time, or smaller ones"
        )
