"""Which shapes compiled engines are built for: what the caller says in pixels and images, as each component's profiles.

A text-conditioned denoiser sees twice the images, because of guidance, a VAE decoder tiles besides whole latents.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deepcache_trt.engines.profile import PIXELS, TOKENS, Range, ShapeProfile
from deepcache_trt.errors import ShapeError
from deepcache_trt.models.part import Architecture
from deepcache_trt.pipelines.component import Component


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """The image sizes and numbers of images of one call that engines are built for; every combination is a profile."""

    sizes: tuple[tuple[Range, Range], ...] = ()  # height and width in pixels; none: the model's own size
    batches: tuple[Range, ...] = (Range(min=1, opt=1, max=1),)  # images, before guidance doubles them


def shapes_from_text(sizes: Sequence[str], batches: Sequence[str]) -> Shapes:
    """Read `--size 1024`, `--size 768x1024` (height × width), `--size 512-1024` and `--batch 4`, `--batch 1-4`.

    Raises:
        ShapeError: what is none of these, or no multiple of eight pixels.
    """
    given = Shapes(sizes=tuple(_size(text) for text in sizes))
    return Shapes(sizes=given.sizes, batches=tuple(_range(text, "--batch") for text in batches) or given.batches)


def _size(text: str) -> tuple[Range, Range]:
    sides = [_range(side, "--size") for side in text.lower().replace("×", "x").split("x")]
    if len(sides) > 2:
        raise ShapeError(f"--size {text} has {len(sides)} sides; write 1024, 768x1024 (height x width) or 512-1024")
    for side in sides:
        if side.min % PIXELS or side.max % PIXELS:
            raise ShapeError(f"--size {text}: pixels must be multiples of {PIXELS}; use {_rounded(side)}")
    return sides[0], sides[-1]


def _rounded(side: Range) -> str:
    low, high = (max(PIXELS, round(end / PIXELS) * PIXELS) for end in (side.min, side.max))
    return str(low) if low == high else f"{low}-{high}"


def _range(text: str, option: str) -> Range:
    match = re.fullmatch(r"(\d+)(?:[-–](\d+))?", text.strip())
    if not match:
        raise ShapeError(f"{option} {text!r} is no number and no range; write for example {option} 4 or {option} 1-4")
    low, high = int(match[1]), int(match[2] or match[1])
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
    sizes = shapes.sizes or (_own_size(component),)
    unit = _pixels(component)
    profiles = [
        ShapeProfile(
            batch=_batch(component, images),
            height=_latent(height, unit),
            width=_latent(width, unit),
            sequence=Range(min=1, opt=TOKENS, max=TOKENS),
        )
        for (height, width), images in itertools.product(sizes, shapes.batches)
    ]
    for profile in profiles:
        for end in ("min", "max"):
            used = {axis: size for axis, size in profile.at(end).items() if axis in axes(component.architecture)}
            widest_profile(component.architecture).check(used, size_multiple=component.architecture.size_multiple)
    return tuple(dict.fromkeys((*profiles, *_tiles(component))))


def profiles_around(component: Component, sizes: Mapping[str, int]) -> tuple[ShapeProfile, ...]:
    """For exactly one shape, and for the tiles of a decoder."""
    exact = ShapeProfile(**{axis: Range(min=size, opt=size, max=size) for axis, size in sizes.items()})
    tiles = _tiles(component)
    return tiles if any(tile.covers(sizes) for tile in tiles) else (exact, *tiles)


def axes(architecture: Architecture) -> set[str]:
    """The dynamic axes of a graph."""
    return {dim for spec in architecture.inputs for dim in spec.shape if isinstance(dim, str)}


def in_words(sizes: Mapping[str, int]) -> str:
    """Sizes of one call as a person says them: "a batch of 2 at 768×768 pixels"."""
    words = f"a batch of {sizes['batch']}"
    if "height" in sizes:
        words += f" at {sizes['height'] * PIXELS}×{sizes['width'] * PIXELS} pixels (latents of {PIXELS})"
    return words


def as_options(component: Component, sizes: Mapping[str, int]) -> str:
    """The options of `deepcache-trt build` that cover the sizes of one call."""
    images = -(-sizes["batch"] // 2) if _is_guided(component) else sizes["batch"]
    unit = _pixels(component)
    size = f" --size {sizes['height'] * unit}x{sizes['width'] * unit}" if "height" in sizes else ""
    return f"--batch {images}{size}"


def _is_guided(component: Component) -> bool:
    return any(spec.name == "encoder_hidden_states" for spec in component.architecture.inputs)


def _is_decoder(component: Component) -> bool:
    return any(spec.name == "latent" for spec in component.architecture.inputs)


def _pixels(component: Component) -> int:
    """Pixels for each element of height and width: a U-Net without text draws pixels, the others draw latents."""
    return 1 if component.model_class.__name__ == "UNet2DModel" else PIXELS


def _own_size(component: Component) -> tuple[Range, Range]:
    own = component.config.get("sample_size") or PIXELS
    height, width = own if isinstance(own, list | tuple) else (own, own)
    unit = 1 if _is_decoder(component) else _pixels(component)  # a VAE's config counts pixels, a denoiser's latents
    return tuple(Range(min=side * unit, opt=side * unit, max=side * unit) for side in (height, width))  # type: ignore[return-value]


def _latent(pixels: Range, unit: int) -> Range:
    return Range(min=pixels.min // unit, opt=pixels.opt // unit, max=pixels.max // unit)


def _batch(component: Component, images: Range) -> Range:
    if _is_guided(component):
        return Range(min=images.min, opt=2 * images.opt, max=2 * images.max)
    # A decoder may be asked for one image at a time, an encoder for one prompt.
    return Range(min=1, opt=images.opt, max=images.max)


def _tiles(component: Component) -> tuple[ShapeProfile, ...]:
    """The tiles of a decoder that `vae.enable_tiling()` may ask for; those at the border are smaller."""
    if not _is_decoder(component):
        return ()
    side = max(1, component.config["sample_size"] // PIXELS)
    tile = Range(min=max(1, side // 8), opt=side, max=side)
    return (ShapeProfile(batch=Range(min=1, opt=1, max=1), height=tile, width=tile),)
