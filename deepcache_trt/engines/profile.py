"""Shape profiles: the sizes that an engine is built for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from deepcache_trt.errors import ShapeError
from deepcache_trt.tensors import LATENT_PIXELS, PROMPT_TOKENS


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
    """Ranges of the dynamic axes; height and width are those of the latents, a sequence is the prompt's tokens.

    An engine may be built for several profiles; narrow ones are faster than one wide one.
    """

    batch: Range = Range(min=1, opt=2, max=63)
    height: Range = Range(min=1, opt=64, max=512)
    width: Range = Range(min=1, opt=64, max=512)
    sequence: Range = Range(min=1, opt=PROMPT_TOKENS, max=4096)

    @classmethod
    def from_json(cls, data: Mapping[str, Mapping[str, int]]) -> "ShapeProfile":
        """The inverse of `dataclasses.asdict`."""
        return cls(**{axis: Range(**limits) for axis, limits in data.items()})

    def at(self, point: str) -> dict[str, int]:
        """The sizes at one point of every range: "min", "opt" or "max"."""
        return {field.name: getattr(getattr(self, field.name), point) for field in fields(self)}

    def covers(self, sizes: Mapping[str, int]) -> bool:
        """Whether every axis in `sizes` lies in its range; axes that an engine does not have are not in `sizes`."""
        ranges: dict[str, Any] = vars(self)
        return all(ranges[axis].min <= size <= ranges[axis].max for axis, size in sizes.items())

    def distance(self, sizes: Mapping[str, int]) -> float:
        """How far `sizes` are from what the profile is best at: the factor of each axis, in octaves, summed."""
        best = self.at("opt")
        return sum(abs(math.log2(size / best[axis])) for axis, size in sizes.items())

    def width_in_octaves(self) -> float:
        """How much the profile spans, in octaves: 0 for a single shape."""
        low, high = self.at("min"), self.at("max")
        return sum(math.log2(high[axis] / low[axis]) for axis in low)

    def check(self, sizes: Mapping[str, int], *, size_multiple: int = 1, pixels: int = LATENT_PIXELS) -> None:
        """Raise ShapeError, with the cure, unless every axis in `sizes` fits.

        Args:
            sizes: of a call.
            size_multiple: of which height and width must be multiples.
            pixels: of the image for each element of height and width, which people think in.
        """
        for field in fields(self):
            size, limits = sizes.get(field.name), getattr(self, field.name)
            if size is None:
                continue
            if not limits.min <= size <= limits.max:
                raise ShapeError(_outside(field.name, size, limits, pixels))
            if field.name in ("height", "width") and size % max(size_multiple, 1):
                raise ShapeError(_between(field.name, size, limits, size_multiple, pixels))


def nearest(profiles: Sequence[ShapeProfile], sizes: Mapping[str, int]) -> int | None:
    """The index of the profile that covers `sizes` and is best at shapes like it; of two such, the narrower one."""
    covering = [i for i, profile in enumerate(profiles) if profile.covers(sizes)]
    if not covering:
        return None
    return min(covering, key=lambda i: (profiles[i].distance(sizes), profiles[i].width_in_octaves()))


def _between(axis: str, size: int, limits: Range, multiple: int, pixels: int) -> str:
    below = size // multiple * multiple
    fitting = [side for side in (below, below + multiple) if limits.min <= side <= limits.max]
    in_pixels = [side * pixels for side in fitting]
    return (
        f"a latent {axis} of {size} ({size * pixels} pixels where a latent is {pixels}) is no multiple of the "
        f"U-Net's {multiple}; use {' or '.join(map(str, fitting))} ({' or '.join(map(str, in_pixels))} pixels)"
    )


def _outside(axis: str, size: int, limits: Range, pixels: int) -> str:
    if axis == "batch":
        return (
            f"a batch of {size} is outside the profile {limits}; draw fewer images or frames at a time "
            f"(guidance doubles their number)"
        )
    if axis == "sequence":
        return f"a prompt of {size} tokens is outside the profile {limits}; shorten it"
    return (
        f"a latent {axis} of {size} ({size * pixels} pixels where a latent is {pixels}) is outside the profile "
        f"{limits}; choose {limits.min * pixels} to {limits.max * pixels} pixels"
    )
