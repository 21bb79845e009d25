"""Which shapes compiled engines are built for: what the caller says in pixels and images, as each component's profiles.

A text-conditioned denoiser sees twice the images, because of guidance, a VAE decoder tiles besides whole latents.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deepcache_trt.builder.component import Component
from deepcache_trt.engines.profile import Range, ShapeProfile
from deepcache_trt.errors import ShapeError
from deepcache_trt.models.architecture import Architecture
from deepcache_trt.models.calls import argument_of
from deepcache_trt.tensors import PROMPT_TOKENS, axis_sizes

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """The image sizes and numbers of images of one call that engines are built for; every combination is a profile."""

    sizes: tuple[tuple[Range, Range], ...] = ()  # height and width in pixels; none: the model's own size
    batches: tuple[Range, ...] = (Range(min=1, opt=1, max=1),)  # images, before guidance doubles them


def shapes_from_text(sizes: Sequence[str], batches: Sequence[str]) -> Shapes:
    """Read `--size 1024`, `--size 768x1024` (height × width), `--size 512-1024` and `--batch 4`, `--batch 1-4`.

    Raises:
        ShapeError: what is none of these.
    """
    given = Shapes(sizes=tuple(_size(text) for text in sizes))
    return Shapes(sizes=given.sizes, batches=tuple(_range(text, "--batch") for text in batches) or given.batches)


def _size(text: str) -> tuple[Range, Range]:
    sides = [_range(side, "--size") for side in text.lower().replace("×", "x").split("x")]
    if len(sides) > 2:
        raise ShapeError(f"--size {text} has {len(sides)} sides; write 1024, 768x1024 (height x width) or 512-1024")
    return sides[0], sides[-1]


def _range(text: str, option: str) -> Range:
    match = re.fullmatch(r"(\d{1,9})(?:[-–](\d{1,9}))?", text.strip())
    if not match:
        raise ShapeError(f"{option} {text!r} is no number and no range; write for example {option} 4 or {option} 1-4")
    low, high = int(match[1]), int(match[2] or match[1])
    if not 1 <= low <= high:
        raise ShapeError(f"{option} {text}: a range goes from 1 or more upwards; write for example {option} 4 or 1-4")
    # Images are usually drawn one or a few at a time, at the largest size that was asked for.
    return Range(min=low, opt=high if option == "--size" else low, max=high)


def widest_profile(architecture: Architecture) -> ShapeProfile:
    """Every shape that the graph can take."""
    most = architecture.max_batch
    return ShapeProfile(batch=Range(min=1, opt=min(2, most), max=most))


def check_sizes(architecture: Architecture, sizes: Mapping[str, int]) -> None:
    """Raise ShapeError, with the cure, for an axis that the graph cannot take."""
    multiple, pixels = architecture.size_multiple, architecture.pixels
    widest_profile(architecture).check(sizes, size_multiple=multiple, pixels=pixels)


def call_sizes(architecture: Architecture, tensors: Mapping[str, "torch.Tensor"]) -> dict[str, int]:
    """The size of each dynamic axis of one call, checked before anything is built for it.

    Raises:
        ShapeError: a size that the graph cannot take, or two inputs that disagree about an axis.
    """
    specs = {spec.name: spec for spec in architecture.inputs}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    sizes = axis_sizes(specs, shapes)
    check_sizes(architecture, sizes)
    for name, shape in shapes.items():
        if len(shape) != len(specs[name].shape) or shape != specs[name].resolve(sizes):
            raise ShapeError(f"{argument_of(name)} has shape {list(shape)}, the graph takes {specs[name]} at {sizes}")
    return sizes


def profiles_for(component: Component, shapes: Shapes) -> tuple[ShapeProfile, ...]:
    """The profiles of a component's compiled engines.

    Raises:
        ShapeError: a size or batch that the graph cannot take.
    """
    architecture = component.architecture
    sizes = shapes.sizes or (_own_size(component),)
    _check_fixed_size(component, sizes)
    profiles = []
    for (height, width), images in itertools.product(sizes, shapes.batches):
        ranges = {
            "batch": _batch(architecture, images),
            "height": _latent(component, height),
            "width": _latent(component, width),
            "sequence": Range(min=1, opt=PROMPT_TOKENS, max=PROMPT_TOKENS),
        }
        # An axis that the graph does not have must not make two profiles of one.
        used = {axis: limits for axis, limits in ranges.items() if axis in architecture.axes}
        for end in ("min", "max"):
            ends = {axis: getattr(limits, end) for axis, limits in used.items()}
            check_sizes(architecture, ends)
        profiles.append(ShapeProfile(**used))
    most = max(images.max for images in shapes.batches)
    return tuple(dict.fromkeys((*profiles, *_tiles(architecture, most))))


def _check_fixed_size(component: Component, sizes: Sequence[tuple[Range, Range]]) -> None:
    if component.architecture.fixed_size is None:
        return
    own = component.architecture.fixed_size * component.architecture.pixels
    if set(itertools.chain.from_iterable(sizes)) != {Range(min=own, opt=own, max=own)}:
        raise ShapeError(f"{component.title} is made for {own}×{own} pixels and no others; leave --size out")


def profiles_around(component: Component, sizes: Mapping[str, int], *, static: bool) -> tuple[ShapeProfile, ...]:
    """For exactly one shape, and for the tiles of a decoder; unless `static`, with and without guidance."""
    ranges = {axis: Range(min=size, opt=size, max=size) for axis, size in sizes.items()}
    if component.architecture.is_guided and not static:
        batch = sizes["batch"]
        ranges["batch"] = Range(min=max(1, batch // 2), opt=batch, max=batch)
    if component.architecture.frames is not None:  # a video is decoded in chunks, and the last may have fewer frames
        ranges["batch"] = Range(min=1, opt=sizes["batch"], max=sizes["batch"])
    tiles = _tiles(component.architecture, sizes["batch"])
    return tiles if any(tile.covers(sizes) for tile in tiles) else (ShapeProfile(**ranges), *tiles)


def in_words(component: Component, sizes: Mapping[str, int]) -> str:
    """Sizes of one call as a person says them: "a batch of 2 at 768×768 pixels"."""
    words = f"a batch of {sizes['batch']}"
    if "height" in sizes:
        words += f" at {'×'.join(map(str, _in_pixels(component, sizes)))} pixels"
    return words


def as_options(component: Component, sizes: Mapping[str, int]) -> str:
    """The options of `deepcache-trt build` that cover the sizes of one call."""
    images = -(-sizes["batch"] // 2) if component.architecture.is_guided else sizes["batch"]
    size = f" --size {'x'.join(map(str, _in_pixels(component, sizes)))}" if "height" in sizes else ""
    return f"--batch {images}{size}"


def _own_size(component: Component) -> tuple[Range, Range]:
    height, width = (Range(min=side, opt=side, max=side) for side in component.architecture.own_size)
    return height, width


def _in_pixels(component: Component, sizes: Mapping[str, int]) -> tuple[int, int]:
    unit = component.architecture.pixels
    return sizes["height"] * unit, sizes["width"] * unit


def _latent(component: Component, pixels: Range) -> Range:
    unit = component.architecture.pixels
    if pixels.min % unit or pixels.max % unit:
        low, high = (max(unit, round(end / unit) * unit) for end in (pixels.min, pixels.max))
        cure = str(low) if low == high else f"{low}-{high}"
        raise ShapeError(f"--size {pixels}: the pixels of {component.title} must be multiples of {unit}; use {cure}")
    return Range(min=pixels.min // unit, opt=pixels.opt // unit, max=pixels.max // unit)


def _batch(architecture: Architecture, images: Range) -> Range:
    if architecture.is_guided:
        # As many as the graph takes are served without guidance, and half of them with it.
        most = max(images.max, architecture.max_batch)
        return Range(min=images.min, opt=min(2 * images.opt, most), max=min(2 * images.max, most))
    if architecture.frames is not None:
        frames = max(images.max, architecture.frames)
        return Range(min=1, opt=frames, max=frames)
    # A decoder may be asked for one image at a time, an encoder for one prompt.
    return Range(min=1, opt=images.opt, max=images.max)


def _tiles(architecture: Architecture, images: int) -> tuple[ShapeProfile, ...]:
    """The tiles of a decoder that `vae.enable_tiling()` may ask for; at the border one row or column may be left."""
    if architecture.tile is None:
        return ()
    side = Range(min=1, opt=architecture.tile, max=architecture.tile)
    return (ShapeProfile(batch=Range(min=1, opt=1, max=images), height=side, width=side),)
