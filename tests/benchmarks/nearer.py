"""A policy that only tests know."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from deepcache_trt.models.taps import Variant
from deepcache_trt.runtime.plan import FULL, SKIP, Plan
from deepcache_trt.runtime.policies import Policy


@dataclass(frozen=True, kw_only=True)
class Nearer(Policy):
    """Between two full calls a call at the first skip connection, one at the second, and one that is skipped."""

    kind: ClassVar[str] = "nearer"

    def variants(self, taps: Sequence[str]) -> tuple[Variant, ...]:
        first, second = taps[:2]
        one, two = (Variant(name=f"at {tap}", consumes=(tap,)) for tap in (first, second))
        return Variant(name=FULL, emits=(first, second)), one, two

    def plan(self, calls: int) -> Plan:
        return Plan(variants=tuple([FULL, "at tap_0", "at tap_1", SKIP] * calls)[:calls])
