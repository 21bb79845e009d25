"""Learning-to-Cache (Ma et al. 2024): of each pair of calls the second reuses the taps that a router has chosen.

A router has a score for each tap at each cached call, and a threshold makes masks of the scores. It was published for
the sublayers of DiTs; nothing in it needs one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from deepcache_trt.errors import DeepCacheError, UnknownNameError
from deepcache_trt.models.taps import Variant
from deepcache_trt.runtime.plan import FULL, Plan
from deepcache_trt.runtime.policies.deepcache import FORECASTS
from deepcache_trt.runtime.policies.policy import Policy, check_name

COMPUTED, REUSED = "0", "1"

_AS = 'a mask is a text such as "0110", a 1 for each tap that is reused'


@dataclass(frozen=True, kw_only=True)
class Router(Policy):
    """Calls in pairs: the first is full, the second takes from it what its mask says.

    Attributes:
        masks: of each second call, in order: a letter for each tap in the model's order, 1 where it is reused.
        forecast: as of `DeepCache`; no router is trained with one.
    """

    kind: ClassVar[str] = "router"
    segments: ClassVar[bool] = True

    masks: tuple[str, ...]
    forecast: str | None = None

    def __post_init__(self) -> None:
        if self.forecast is not None:
            check_name("forecast", self.forecast, FORECASTS)
        if isinstance(self.masks, str) or not all(isinstance(mask, str) for mask in self.masks):
            raise DeepCacheError(f'masks must be a list such as ["0110", "1111"], not {self.masks!r}')
        object.__setattr__(self, "masks", tuple(self.masks))
        if not self.masks or not self.masks[0]:
            raise DeepCacheError(f"masks={self.masks!r} says nothing of any call; {_AS}")
        for mask in self.masks:
            if set(mask) - {COMPUTED, REUSED}:
                raise DeepCacheError(f"mask {mask!r} has other letters than 0 and 1; {_AS}")
            if len(mask) != len(self.masks[0]):
                raise DeepCacheError(
                    f"mask {mask!r} is for {len(mask)} taps and the first one for {len(self.masks[0])}; "
                    "all masks are for the same taps"
                )

    def variants(self, taps: Sequence[str]) -> tuple[Variant, ...]:
        """All of the model, and one for each mask that reuses anything.

        Raises:
            UnknownNameError: the model has not as many taps as there are letters in a mask.
        """
        if len(taps) != len(self.masks[0]):
            raise UnknownNameError(
                f"this router is for {len(self.masks[0])} taps, and there are {len(taps)}: it is another model's; "
                "deepcache-trt train-router trains one for it"
            )
        cached = [
            Variant(name=name, consumes=tuple(tap for tap, letter in zip(taps, mask, strict=True) if letter == REUSED))
            for mask, name in self._names.items()
            if name != FULL
        ]
        reused = {tap for variant in cached for tap in variant.consumes}
        return Variant(name=FULL, emits=tuple(tap for tap in taps if tap in reused)), *cached

    def plan(self, calls: int) -> Plan:
        """In turn a full call and the next mask.

        Raises:
            DeepCacheError: there is not a pair of calls for each mask.
        """
        if calls != 2 * len(self.masks):
            odd = "; calls come in pairs, so that their number is even" if calls % 2 else ""
            raise DeepCacheError(
                f"this router is for {2 * len(self.masks)} calls of the model, and there are {calls}{odd}; draw with "
                f"as many steps as it was trained for, or train one with --steps {calls + calls % 2}"
            )
        variants = tuple(variant for mask in self.masks for variant in (FULL, self._names[mask]))
        return Plan(variants=variants, forecast=self.forecast)

    @property
    def removed(self) -> float:
        """The share of the taps that are reused in cached calls."""
        return removed_share(self.masks)

    @property
    def in_words(self) -> str:
        """For a person, e.g. "router, 20 calls, 44.3 % of the taps reused in cached ones, by 7 masks"."""
        count = len(set(self.masks))
        return (
            f"router, {2 * len(self.masks)} calls, {self.removed:.1%} of the taps reused in cached ones, "
            f"by {count} mask{'s' * (count > 1)}{f', {self.forecast}' if self.forecast else ''}"
        )

    def to_json(self) -> dict[str, Any]:
        """As every policy; JSON has lists."""
        return super().to_json() | {"masks": list(self.masks)}

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> "Router":
        """As of every policy."""
        masks = values.get("masks")
        if not isinstance(masks, list):
            raise DeepCacheError(f'policy {cls.kind!r} wants masks, a list such as ["0110", "1111"], not {masks!r}')
        return cls(masks=tuple(masks), forecast=values.get("forecast"))

    @property
    def _names(self) -> dict[str, str]:
        """The variant of each mask; a call that reuses nothing is a full one."""
        distinct = dict.fromkeys(self.masks)
        return {mask: f"mask_{i}" if REUSED in mask else FULL for i, mask in enumerate(distinct)}


def masks_at(logits: NDArray[np.float32], threshold: float) -> tuple[str, ...]:
    """The masks of a router: what has a score of at most the threshold is reused (Learning-to-Cache, section 3.3).

    Algorithm 2 of the paper has the comparison the other way round; its code has it as here.

    Args:
        logits: [cached calls, taps], whose sigmoid is the score.
        threshold: within 0…1; raising it removes more.

    Raises:
        DeepCacheError: a threshold that no score can have.
    """
    if not 0 <= threshold <= 1:
        raise DeepCacheError(f"a threshold of {threshold:g} is outside 0…1, where all scores are; 0.1 removes a little")
    scores = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return tuple("".join(COMPUTED if computed else REUSED for computed in row) for row in scores > threshold)


def random_masks(like: Sequence[str], seed: int) -> tuple[str, ...]:
    """Masks that reuse as much, drawn among all taps of all cached calls: what a router has to be better than."""
    letters = np.random.default_rng(seed).permutation(list("".join(like)))
    return tuple("".join(row) for row in letters.reshape(len(like), -1))


def all_reused(like: Sequence[str]) -> tuple[str, ...]:
    """Masks that reuse everything: every other step is skipped but for what lies between the taps."""
    return tuple(REUSED * len(mask) for mask in like)


def removed_share(masks: Sequence[str]) -> float:
    """The share of the taps that masks reuse."""
    return "".join(masks).count(REUSED) / len("".join(masks))
