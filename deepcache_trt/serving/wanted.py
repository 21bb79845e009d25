"""One picture that somebody wants, and what has to be the same of pictures that are drawn together."""

import re
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deepcache_trt.errors import DeepCacheError
from deepcache_trt.runtime.policies import Policy

if TYPE_CHECKING:
    from PIL.Image import Image

PIXELS = 8  # what sides are multiples of

_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a server takes.

    Attributes:
        steps: of denoising, at most.
        pixels: of a side, at most.
        characters: of a prompt, at most.
        images: of one request, at most.
    """

    steps: int = 200
    pixels: int = 2048
    characters: int = 4096
    images: int = 10


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One picture.

    Attributes:
        model: one of the server's.
        prompt: what it shows.
        negative_prompt: what it does not.
        seed: of its noise.
        steps: of denoising.
        guidance: its scale; None: the pipeline's.
        height: in pixels; None: the model's.
        width: likewise.
        scheduler: of diffusers, as the commands take it; "": the model's.
        policy: how to cache.
        adapters: LoRAs by name, with their weights.
        image: to begin with; None: noise.
        strength: how much of that is drawn anew.
    """

    model: str
    prompt: str
    negative_prompt: str = ""
    seed: int
    steps: int = 50
    guidance: float | None = None
    height: int | None = None
    width: int | None = None
    scheduler: str = ""
    policy: Policy
    adapters: tuple[tuple[str, float], ...] = ()
    image: "Image | None" = None
    strength: float = 0.8

    @property
    def kind(self) -> Hashable:
        """The same for pictures that can be drawn in one batch."""
        size = (self.height, self.width) if self.image is None else self.image.size
        start = None if self.image is None else self.strength
        rest = (self.steps, self.guidance, self.scheduler, self.policy, self.adapters, start)
        return (self.model, size, *rest)

    def check(self, limits: Limits) -> None:
        """Raise DeepCacheError for what no server draws, naming the argument, the value, the limit and the cure."""
        if len(self.prompt) > limits.characters or len(self.negative_prompt) > limits.characters:
            longest = max(len(self.prompt), len(self.negative_prompt))
            raise DeepCacheError(f"a prompt of {longest:,} characters is longer than {limits.characters:,}; shorten it")
        if not 1 <= self.steps <= limits.steps:
            raise DeepCacheError(f"steps {self.steps} is outside 1…{limits.steps}; choose a number between")
        if not 0 <= self.seed < 2**63:
            raise DeepCacheError(f"seed {self.seed} is outside 0…2⁶³ - 1; choose another")
        if (self.height is None) != (self.width is None):
            raise DeepCacheError("height or width alone is half a size; give both, or neither")
        for name, side in (("height", self.height), ("width", self.width)):
            if side is not None and (side % PIXELS or not PIXELS <= side <= limits.pixels):
                raise DeepCacheError(
                    f"{name} {side} is no multiple of {PIXELS} in {PIXELS}…{limits.pixels}; choose one, as 512"
                )
        if not 0 < self.strength <= 1:
            raise DeepCacheError(f"strength {self.strength:g} is outside 0…1; 1 draws all anew")
        self.policy.plan(self.steps)


def sides(size: str | None) -> tuple[int | None, int | None]:
    """Height and width of "width x height"; None: the model's.

    Raises:
        DeepCacheError: it is no size.
    """
    if size in (None, "auto"):
        return None, None
    found = _SIZE.fullmatch(str(size))
    if found is None:
        raise DeepCacheError(f"size {size!r} is none; write width x height, as 512x512, or auto")
    return int(found[2]), int(found[1])
