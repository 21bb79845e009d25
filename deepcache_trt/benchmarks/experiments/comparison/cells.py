"""The ways to draw that an experiment sets beside each other."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from deepcache_trt.runtime.policies import DeepCache, Policy, Uncached

if TYPE_CHECKING:
    from deepcache_trt.samplers import Sampler


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One way to draw.

    Attributes:
        name: for a person; its folder is called after it.
        policy: how it caches.
        sampler: with which scheduler; None: the pipeline's own.
        model: instead of the one that was asked for; "": that one.
        steps: of denoising, instead of those that were asked for; None: those.
        reference: the name of the cell whose pictures its own are compared with; "" for such a one itself.
        at: where it lies on the axis of a plot.
        line: which line of a plot it belongs to.
    """

    name: str
    policy: Policy
    sampler: "Sampler | None" = None
    model: str = ""
    steps: int | None = None
    reference: str = ""
    at: float | None = None
    line: str = ""

    @property
    def folder(self) -> str:
        """The name of its folder: letters, digits and dashes."""
        return re.sub(r"[^a-z0-9.]+", "-", self.name.lower()).strip("-")

    def record(self) -> dict[str, Any]:
        """What its pictures depend on, for JSON."""
        sampler = None if self.sampler is None else asdict(self.sampler)
        record = {"cell": self.name, "policy": self.policy.to_json(), "sampler": sampler}
        return record | {"model": self.model, "steps": self.steps}


UNCACHED = Cell(name="uncached", policy=Uncached())


def cached(
    interval: int, branch: int, reference: Cell | None = None, *, at: float | None = None, line: str = ""
) -> Cell:
    """DeepCache at an interval and a branch, beside a cell; for the others see `Cell`."""
    return Cell(
        name=f"interval {interval}, branch {branch}",
        policy=DeepCache(cache_interval=interval, cache_branch_id=branch),
        reference="" if reference is None else reference.name,
        at=at,
        line=line,
    )


def over_intervals(intervals: Sequence[int], branches: Sequence[int]) -> list[Cell]:
    """Uncached, and DeepCache over intervals, in a line of a plot for each branch."""
    return [
        UNCACHED,
        *(
            cached(interval, branch, UNCACHED, at=interval, line=f"branch {branch}")
            for branch in branches
            for interval in intervals
        ),
    ]
