"""How a component is quantized, as a value that it carries into the keys of its graph, its weights and its engines."""

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from deepcache_trt.errors import UnknownNameError, did_you_mean
from deepcache_trt.export.precision import Precision
from deepcache_trt.models.taps import Variant
from deepcache_trt.progress import Progress

# In the place of patterns: every layer but those that the default keeps whatever is cached.
ALL = "all"

# Between a component and a pattern of its layers, as in "vae:decoder.*".
_OWNS = ":"

# What makes scales of activations, by whether steps are all of one size; change it with that.
_METHOD = {True: "least square error of 2048 bins", False: "largest magnitude"}


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Where the scales of activations come from.

    Attributes:
        about: what is drawn, or else given to the model; as JSON, all that the scales depend on beside the weights.
        observe: runs the model for it; gives the scale of each layer's activation in a precision, by the name of its
            weight.
        in_words: what it does, for the log.
    """

    about: Mapping[str, Any]
    observe: Callable[[Progress, Precision], Mapping[str, float]]
    in_words: str


@dataclass(frozen=True, kw_only=True)
class Quantizing:
    """Which layers of a component compute in another precision, and with which scales.

    Attributes:
        precision: theirs.
        calibration: gives the scales of their activations.
        patterns: of their names, as "mid_block.*", or `ALL` alone; none: the default, see `choice.chosen`.
        cached: the variants that consume taps; the default keeps what every one of them runs.
    """

    precision: Precision
    calibration: Calibration
    patterns: tuple[str, ...] = ()
    cached: tuple[Variant, ...] = field(default=())

    @property
    def layers(self) -> dict[str, Any]:
        """What decides which layers are quantized, as keys have it."""
        said: dict[str, Any] = {"precision": self.precision.name, "patterns": [*self.patterns]}
        # What the default is beside these, `choice` says; another default has another number.
        default = {"default": 4, "cached": [asdict(variant) for variant in self.cached]}
        return said | ({} if self.patterns else default)

    def options(self, owner: str = "") -> str:
        """The options of `deepcache-trt build` that quantize so; `owner` is the component, but for the denoiser."""
        patterns = (shlex.quote(f"{owner}{_OWNS}{each}" if owner else each) for each in self.patterns)
        return " ".join([f"--precision {self.precision.name}", *(f"--quantize {each}" for each in patterns)])

    def scales_of(self, fingerprint: str) -> dict[str, Any]:
        """What decides the scales of the activations of a model with these weights, as keys have it."""
        return {"fingerprint": fingerprint, "method": _METHOD[self.precision.is_whole], **self.calibration.about}


def patterns_of(part: str, given: Iterable[str], *, is_denoiser: bool) -> tuple[str, ...] | None:
    """Which layers of a component are to be quantized.

    Args:
        part: the component.
        given: by a user: patterns of the denoiser's layers, as "mid_block.*", and of others', as "vae:decoder.*".
        is_denoiser: whether it is the denoiser, which alone is quantized without being named.

    Returns:
        Patterns, none of them for the default; None where nothing of it is quantized.
    """
    owned = tuple(pattern for owner, pattern in map(_parted, given) if owner == part or (is_denoiser and not owner))
    return owned if owned or is_denoiser else None


def check_owners(given: Iterable[str], parts: Iterable[str]) -> None:
    """Raise UnknownNameError where a pattern is of another component than these."""
    known = [*parts]
    for owner in (owner for owner, _ in map(_parted, given) if owner and owner not in known):
        raise UnknownNameError(
            f"there is no component {owner!r}{did_you_mean(owner, known)} to quantize layers of; there is "
            f"{', '.join(known)}"
        )


def _parted(given: str) -> tuple[str, str]:
    owner, _, pattern = given.rpartition(_OWNS)
    return owner, pattern
