"""A policy: how a model is cached, as a value.

It names the variants that there must be, as sets of taps, and says which of them runs at each call. Whoever adds one
writes one file in this folder, with a subclass of `Policy`; nothing else knows it by its name.
"""

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from deepcache_trt.errors import DeepCacheError, UnknownNameError, did_you_mean
from deepcache_trt.models.taps import Variant
from deepcache_trt.runtime.plan import Plan

POLICY = "policy"  # the field that has the kind
_UNNAMED = "deepcache"  # the kind where that field is left out

_KINDS: dict[str, type["Policy"]] = {}


@dataclass(frozen=True, kw_only=True)
class Policy(ABC):
    """How a model is cached. Subclasses are frozen dataclasses that are checked when they are made.

    Attributes:
        kind: what plan files call it.
        segments: whether its variants are rather lists of segments than engines of their own, unless someone says.
    """

    kind: ClassVar[str]
    segments: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _KINDS[cls.kind] = cls

    @abstractmethod
    def variants(self, taps: Sequence[str]) -> tuple[Variant, ...]:
        """The variants that its plans name, the full one first.

        Args:
            taps: the names of those that the model has, in its order.

        Raises:
            UnknownNameError: the model lacks a tap that it wants.
        """

    @abstractmethod
    def plan(self, calls: int) -> Plan:
        """The variant of each call of a generation of so many.

        Raises:
            DeepCacheError: there is none for so many calls.
        """

    @property
    def in_words(self) -> str:
        """For a person, in a line."""
        return ", ".join([self.kind, *(f"{name} {value}" for name, value in self.to_json().items() if name != POLICY)])

    @property
    def build_option(self) -> str:
        """What makes `deepcache-trt build` build for it."""
        return "--plan PLAN, a plan file that says so"

    @property
    def calibrating_option(self) -> str:
        """What makes `deepcache-trt build` build for it and for no other schedule of the same variants."""
        return "--plan PLAN, a plan file that says so"

    def to_json(self) -> dict[str, Any]:
        """Its kind and its fields, but for those that are None, as a plan file has them."""
        values = {name: getattr(self, name) for name in self.names()}
        return {POLICY: self.kind} | {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> "Policy":
        """Of the fields as `to_json` gives them, in JSON's types; what is left out has its default.

        Raises:
            DeepCacheError: a value that it refuses.
        """
        return cls(**values)

    @classmethod
    def names(cls) -> list[str]:
        """The names of its fields."""
        return [field.name for field in fields(cls)]


def kinds() -> Mapping[str, type[Policy]]:
    """Every policy by its kind: those of this folder, and what else was defined."""
    package = importlib.import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__, f"{__package__}."):
        importlib.import_module(module.name)
    return _KINDS


def policy_from_json(values: Mapping[str, Any], *, beside: Sequence[str] = ()) -> Policy:
    """The inverse of `Policy.to_json`.

    Args:
        values: of the fields.
        beside: names that could have been meant, too.

    Raises:
        UnknownNameError: no such policy, or a field that it has not.
        DeepCacheError: a value that it refuses.
    """
    said = dict(values)
    kind, known = said.pop(POLICY, _UNNAMED), kinds()
    if not isinstance(kind, str) or kind not in known:
        raise UnknownNameError(
            f"unknown {POLICY} {kind!r}{did_you_mean(str(kind), list(known))}; there are {', '.join(sorted(known))}"
        )
    names = known[kind].names()
    meant = [*names, POLICY, *beside]
    for name in said:
        if name not in names:
            raise UnknownNameError(
                f"unknown field {name!r} of policy {kind!r}{did_you_mean(name, meant)}; there are {', '.join(meant)}"
            )
    return known[kind].from_fields(said)


def check_name(name: str, value: object, known: tuple[str, ...]) -> None:
    """Raise UnknownNameError unless the value of a field is one of the names."""
    if value not in known:
        raise UnknownNameError(
            f"unknown {name} {value!r}{did_you_mean(str(value), list(known))}; known: {', '.join(known)}"
        )


def check_integer(name: str, value: object, least: int) -> None:
    """Raise DeepCacheError unless the value of a field is a whole number of at least so much."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise DeepCacheError(f"{name} must be a whole number of at least {least}, not {value!r}")
