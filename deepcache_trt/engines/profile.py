"""Shape profiles: the sizes that an engine is built for."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from deepcache_trt.errors import ShapeError

# Pixels per latent of the Stable Diffusion families; only messages and the CLI speak in pixels.
PIXELS = 8


@dataclass(frozen=True, kw_only=True)
class Range:
    """The smallest, the best and the largest size of one axis."""

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise ShapeError(f"a range needs 1 <= min <= opt <= max, not {self.min}, {self.opt}, {self.max}")

    def __str__(self) -> str:
        return str(self.min) if self.min == self.max else f"{self.min}–{self.max}"


@dataclass(frozen=True, kw_only=True)
class ShapeProfile:
    """Ranges of the dynamic axes; height and width are those of the latents."""

    batch: Range = Range(min=1, opt=2, max=63)
    height: Range = Range(min=1, opt=64, max=512)
    width: Range = Range(min=1, opt=64, max=512)

    def check(self, sizes: Mapping[str, int], *, size_multiple: int = 1) -> None:
        """Raise ShapeError, with the cure, unless every axis in `sizes` fits."""
        for field in fields(self):
            size, limits = sizes.get(field.name), getattr(self, field.name)
            if size is None:
                continue
            if not limits.min <= size <= limits.max:
                raise ShapeError(_outside(field.name, size, limits))
            if field.name != "batch" and size % max(size_multiple, 1):
                raise ShapeError(_between(field.name, size, limits, size_multiple))


def _between(axis: str, size: int, limits: Range, multiple: int) -> str:
    below = size // multiple * multiple
    fitting = [s for s in (below, below + multiple) if limits.min <= s <= limits.max]
    pixels = [s * PIXELS for s in fitting]
    return (
        f"a latent {axis} of {size} ({size * PIXELS} pixels where a latent is {PIXELS}) is no multiple of the "
        f"U-Net's {multiple}; use {' or '.join(map(str, fitting))} ({' or '.join(map(str, pixels))} pixels)"
    )


def _outside(axis: str, size: int, limits: Range) -> str:
    if axis == "batch":
        return (
            f"a batch of {size} is outside the profile {limits}; draw fewer images at a time "
            f"(guidance doubles their number)"
        )
    return (
        f"a latent {axis} of {size} ({size * PIXELS} pixels where a latent is {PIXELS}) is outside the profile "
        f"{limits}; choose {limits.min * PIXELS} to {limits.max * PIXELS} pixels"
    )
