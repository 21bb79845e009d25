"""What an experiment is, and the ways to draw that it sets beside each other."""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from deepcache_trt.benchmarks.timing.samplers import Sampler
from deepcache_trt.runtime.policies import Policy

if TYPE_CHECKING:
    from deepcache_trt.benchmarks.experiments.measure import Results


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What an experiment is asked for; an experiment takes no notice of what it does not vary.

    Attributes:
        intervals: of caching; none: the experiment's own choice. The same holds for the others.
        branches: at which the shallow layers begin.
        samplers: in which the schedulers are tried.
        taps: how many branches the model has.
        steps: of denoising.
    """

    intervals: tuple[int, ...] = ()
    branches: tuple[int, ...] = ()
    samplers: tuple[Sampler, ...] = ()
    taps: int
    steps: int


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One way to draw.

    Attributes:
        name: for a person; its folder is called after it.
        policy: how it caches.
        sampler: with which scheduler; None: the pipeline's own.
        reference: the name of the cell whose pictures its own are compared with; "" for such a one itself.
        at: where it lies on the axis of a plot.
        line: which line of a plot it belongs to.
    """

    name: str
    policy: Policy
    sampler: Sampler | None = None
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
        return {"cell": self.name, "policy": self.policy.to_json(), "sampler": sampler}


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A declaration.

    Attributes:
        name: as it is typed.
        says: what it shows, in one sentence.
        cells: that are set beside each other, a reference before those that are compared with it.
        plot: draws the results into a figure of matplotlib; None: there is nothing to plot.
        axis: what `Cell.at` counts.
        schedulers: that it tries, as they are typed, where nobody says which; none: it varies no scheduler.
        seeds: pictures of each prompt, where nobody says how many.
        between: whether pictures of one prompt are compared with each other too.
    """

    name: str
    says: str
    cells: Callable[[Setting], Sequence[Cell]]
    plot: "Callable[[Results, Any], None] | None" = None
    axis: str = ""
    schedulers: tuple[str, ...] = ()
    seeds: int = 1
    between: bool = False
