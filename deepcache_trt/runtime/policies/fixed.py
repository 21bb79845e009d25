"""A plan as it is written: the variant of each call of another policy, as an adaptive run took them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from deepcache_trt.errors import DeepCacheError
from deepcache_trt.models.taps import Variant
from deepcache_trt.runtime.plan import FULL, Plan
from deepcache_trt.runtime.policies.policy import Policy, policy_from_json


@dataclass(frozen=True, kw_only=True)
class Fixed(Policy):
    """The calls of one generation, one by one.

    Attributes:
        of: the policy whose variants run.
        calls: the names of those, or "skip", in order, the first one full; of just so many calls is a generation.
    """

    kind: ClassVar[str] = "fixed"

    of: Policy
    calls: tuple[str, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.of, Policy):
            raise DeepCacheError(f"of={self.of!r} is no policy; write the one whose variants run, as in its plan file")
        if isinstance(self.calls, str) or not all(isinstance(call, str) for call in self.calls):
            raise DeepCacheError(f'calls must be a list such as ["full", "shallow"], not {self.calls!r}')
        object.__setattr__(self, "calls", tuple(self.calls))
        if self.calls[:1] != (FULL,):
            raise DeepCacheError(f"calls begin with {FULL!r}, since nothing can be reused before; not {self.calls[:1]}")

    def variants(self, taps: Sequence[str]) -> tuple[Variant, ...]:
        """Those of the other policy."""
        return self.of.variants(taps)

    def plan(self, calls: int) -> Plan:
        """The calls as they are written."""
        if calls != len(self.calls):
            raise DeepCacheError(
                f"this plan is for {len(self.calls)} calls of the model, and there are {calls}; draw with as many "
                f"steps as it was taken with, or take policy {self.of.kind!r}"
            )
        return Plan(variants=self.calls, forecast=self.of.plan(calls).forecast)

    @property
    def in_words(self) -> str:
        """For a person."""
        return f"{len(self.calls)} calls of {self.of.in_words}, {self.calls.count(FULL)} of them full"

    @property
    def build_option(self) -> str:
        """That of the other policy."""
        return self.of.build_option

    def to_json(self) -> dict[str, Any]:
        """With the other policy within."""
        return super().to_json() | {"of": self.of.to_json(), "calls": list(self.calls)}

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> "Fixed":
        """As of every policy."""
        for name in cls.names():
            if name not in values:
                raise DeepCacheError(f"policy {cls.kind!r} wants {name}")
        of = values["of"]
        return cls(of=policy_from_json(of) if isinstance(of, Mapping) else of, calls=values["calls"])
