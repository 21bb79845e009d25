"""Which shapes compiled engines are built for: what the caller says in pixels and images, as each component's profiles.

A text-conditioned denoiser sees twice the images, because of guidance, a VAE decoder tiles besides whole latents.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deepcache_trt.builder.component import Component
from deepcache_trt.engines.profile import PIXELS, TOKENS, Range, ShapeProfile
from deepcache_trt.errors import ShapeError
from deepcache_trt.models.part import Architecture

# diffusers decodes a video whole unless `decode_chunk_size` says otherwise; Stable Video Diffusion has 14 frames or 25.
_FRAMES = 25


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
    match = re.fullmatch(r"(\d+)(?:[-–](\d+))?", text.strip())
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
            "batch": _batch(component, images),
            "height": _latent(component, height),
            "width": _latent(component, width),
            "sequence": Range(min=1, opt=TOKENS, max=TOKENS),
        }
        # An axis that the graph does not have must not make two profiles of one.
        used = {axis: limits for axis, limits in ranges.items() if axis in axes(architecture)}
        for end in ("min", "max"):
            ends = {axis: getattr(limits, end) for axis, limits in used.items()}
            widest_profile(architecture).check(ends, size_multiple=architecture.size_multiple)
        profiles.append(ShapeProfile(**used))
    most = max(images.max for images in shapes.batches)
    return tuple(dict.fromkeys((*profiles, *_tiles(component, most))))


def _check_fixed_size(component: Component, sizes: Sequence[tuple[Range, Range]]) -> None:
    if component.architecture.fixed_size is None:
        return
    own = component.architecture.fixed_size * PIXELS
    if set(itertools.chain.from_iterable(sizes)) != {Range(min=own, opt=own, max=own)}:
        raise ShapeError(f"{component.title} is made for {own}×{own} pixels and no others; leave --size out")


def profiles_around(component: Component, sizes: Mapping[str, int], *, static: bool) -> tuple[ShapeProfile, ...]:
    """For exactly one shape, and for the tiles of a decoder; unless `static`, with and without guidance."""
    ranges = {axis: Range(min=size, opt=size, max=size) for axis, size in sizes.items()}
    if _is_guided(component) and not static:
        batch = sizes["batch"]
        ranges["batch"] = Range(min=max(1, batch // 2), opt=batch, max=batch)
    if _decodes_videos(component):  # in chunks, of which the last may have fewer frames
        ranges["batch"] = Range(min=1, opt=sizes["batch"], max=sizes["batch"])
    tiles = _tiles(component, sizes["batch"])
    return tiles if any(tile.covers(sizes) for tile in tiles) else (ShapeProfile(**ranges), *tiles)


def axes(architecture: Architecture) -> set[str]:
    """The dynamic axes of a graph."""
    return {dim for spec in architecture.inputs for dim in spec.shape if isinstance(dim, str) and dim.isidentifier()}


def in_words(component: Component, sizes: Mapping[str, int]) -> str:
    """Sizes of one call as a person says them: "a batch of 2 at 768×768 pixels"."""
    words = f"a batch of {sizes['batch']}"
    if "height" in sizes:
        words += f" at {'×'.join(map(str, _in_pixels(component, sizes)))} pixels"
    return words


def as_options(component: Component, sizes: Mapping[str, int]) -> str:
    """The options of `deepcache-trt build` that cover the sizes of one call."""
    images = -(-sizes["batch"] // 2) if _is_guided(component) else sizes["batch"]
    size = f" --size {'x'.join(map(str, _in_pixels(component, sizes)))}" if "height" in sizes else ""
    return f"--batch {images}{size}"


def _is_guided(component: Component) -> bool:
    return any(spec.name in ("encoder_hidden_states", "class_labels") for spec in component.architecture.inputs)


def _is_decoder(component: Component) -> bool:
    return any(spec.name == "latent" for spec in component.architecture.inputs)


def _decodes_videos(component: Component) -> bool:
    return component.model_class.__name__ == "AutoencoderKLTemporalDecoder"


def _pixels(component: Component) -> int:
    """Pixels for each element of height and width: a U-Net without text draws pixels, the others draw latents."""
    return 1 if component.model_class.__name__ == "UNet2DModel" else PIXELS


def _own_size(component: Component) -> tuple[Range, Range]:
    own = component.config.get("sample_size") or PIXELS
    height, width = own if isinstance(own, list | tuple) else (own, own)
    unit = 1 if _is_decoder(component) else _pixels(component)  # a VAE's config counts pixels, a denoiser's latents
    return tuple(Range(min=side * unit, opt=side * unit, max=side * unit) for side in (height, width))  # type: ignore[return-value]


def _in_pixels(component: Component, sizes: Mapping[str, int]) -> tuple[int, int]:
    unit = _pixels(component)
    return sizes["height"] * unit, sizes["width"] * unit


def _latent(component: Component, pixels: Range) -> Range:
    unit = _pixels(component)
    if pixels.min % unit or pixels.max % unit:
        low, high = (max(unit, round(end / unit) * unit) for end in (pixels.min, pixels.max))
        cure = str(low) if low == high else f"{low}-{high}"
        raise ShapeError(f"--size {pixels}: the pixels of {component.title} must be multiples of {unit}; use {cure}")
    return Range(min=pixels.min // unit, opt=pixels.opt // unit, max=pixels.max // unit)


def _batch(component: Component, images: Range) -> Range:
    if _is_guided(component):
        # As many as the graph takes are served without guidance, and half of them with it.
        most = max(images.max, component.architecture.max_batch)
        return Range(min=images.min, opt=min(2 * images.opt, most), max=min(2 * images.max, most))
    if _decodes_videos(component):
        frames = max(images.max, _FRAMES)
        return Range(min=1, opt=frames, max=frames)
    # A decoder may be asked for one image at a time, an encoder for one prompt.
    return Range(min=1, opt=images.opt, max=images.max)


def _tiles(component: Component, images: int) -> tuple[ShapeProfile, ...]:
    """The tiles of a decoder that `vae.enable_tiling()` may ask for; at the border one row or column may be left."""
    if not _is_decoder(component) or _decodes_videos(component):  # for which diffusers has no tiling
        return ()
    side = max(1, component.config["sample_size"] // PIXELS)
    tile = Range(min=1, opt=side, max=side)
    return (ShapeProfile(batch=Range(min=1, opt=1, max=images), height=tile, width=tile),)
