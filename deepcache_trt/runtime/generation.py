"""A generation: one way through a table of timesteps, and what it holds while another has its turn."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deepcache_trt.models.architecture import OUTPUT
from deepcache_trt.runtime.decision import Decision
from deepcache_trt.runtime.plan import FULL, Plan

if TYPE_CHECKING:
    import torch

    from deepcache_trt.runtime.session import Session


@dataclass(frozen=True, kw_only=True, eq=False)
class Kept:
    """What a generation has computed of what later calls of it read, in tensors of its own.

    Attributes:
        sizes: the axes of its last call.
        device: where it runs.
        tensors: by name.
    """

    sizes: Mapping[str, int]
    device: "torch.device"
    tensors: Mapping[str, "torch.Tensor"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Generation:
    """One way through a table of timesteps, as far as it is: each call replaces it by the next one.

    Attributes:
        timesteps: the scheduler's table; another object there begins another generation.
        plan: the variant of each call.
        session: whose buffers hold the last call.
        number: of the session's own generation, see `Session.begin`.
        calls: how many there have been.
        decisions: about them, where a rule decides.
        outputs: what the model returned last, by name.
        sizes: the axes of the last call.
        thread: that began it.
        promised: the variant of the next call, if anyone has asked; else the full one.
        is_finished: the rest has been run by the loop; what is still asked is answered with the last outputs.
        is_over: the next call begins another generation, whatever the scheduler says.
    """

    timesteps: Any
    plan: Plan
    session: "Session"
    number: int
    thread: int = field(default_factory=threading.get_ident)
    calls: int = 0
    decisions: tuple[Decision, ...] = ()
    outputs: Mapping[str, "torch.Tensor"] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    promised: str = FULL
    is_finished: bool = False
    is_over: bool = False

    @property
    def planned(self) -> str | None:
        """The variant of the next call, by the plan; None: a rule decides.

        Past its end, as custom pipelines may go, it is the full one.
        """
        if self.calls >= len(self.plan):
            return FULL
        return self.plan.variants[self.calls] if self.plan.rule is None else None

    @property
    def taken(self) -> Plan:
        """The plan, or what came of it where a rule decides."""
        if self.plan.rule is None:
            return self.plan
        return Plan(variants=tuple(decision.variant for decision in self.decisions))

    @property
    def is_interrupted(self) -> bool:
        """Whether another generation has been begun in its session."""
        return self.session.generation != self.number

    @property
    def prediction(self) -> "torch.Tensor":
        """What the model predicted last."""
        return self.outputs[OUTPUT]


@dataclass(frozen=True, eq=False)
class Resting:
    """A generation while others have their turn, and what it holds; None: nothing, so its next call is a full one."""

    generation: Generation
    kept: Kept | None
