"""No cache: every call computes everything."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from deepcache_trt.models.taps import Variant
from deepcache_trt.runtime.plan import FULL, Plan
from deepcache_trt.runtime.policies.policy import Policy


@dataclass(frozen=True, kw_only=True)
class Uncached(Policy):
    """Every call is full, on one engine that gives no taps."""

    kind: ClassVar[str] = "uncached"

    def variants(self, taps: Sequence[str]) -> tuple[Variant, ...]:
        """The whole model."""
        return (Variant(name=FULL),)

    def plan(self, calls: int) -> Plan:
        """All calls alike."""
        return Plan(variants=(FULL,) * calls)

    @property
    def in_words(self) -> str:
        """For a person."""
        return self.kind
