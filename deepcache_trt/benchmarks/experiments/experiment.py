"""What an experiment is: a name, the options that it has, and how it finds what it shows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from deepcache_trt.benchmarks.experiments.options import Options
from deepcache_trt.benchmarks.experiments.results_folder import ResultsFolder
from deepcache_trt.progress import Progress

Given = TypeVar("Given", bound=Options)


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Processes of Ray that share the drawing.

    Attributes:
        address: of a cluster; "auto": the one that this machine is of, or else one that is started here.
        count: how many; None: one for each GPU of the cluster, or one where it has none.
    """

    address: str
    count: int | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of an experiment.

    Attributes:
        folder: of its results, not begun yet.
        store: where engines are kept; None: the user's cache.
        limit: take the first so many samples; None: all.
        workers: None: this process draws.
        progress: how far it is.
        tell: called with what is not done and why.
    """

    folder: ResultsFolder
    store: Path | None
    limit: int | None
    workers: Workers | None
    progress: Progress
    tell: Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What an experiment found.

    Attributes:
        header: of a table.
        lines: of it.
        remarks: what has to be known to read it.
        plot: draws into a figure of matplotlib; None: there is nothing to plot.
    """

    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    remarks: Sequence[str] = ()
    plot: Callable[[Any], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Experiment(Generic[Given]):
    """A declaration.

    Attributes:
        name: as it is typed.
        says: what it shows, in one sentence.
        options: what it can be asked for.
        find: does the work: it looks at what was asked for, begins the folder, and fills it.
    """

    name: str
    says: str
    options: type[Given]
    find: Callable[[Given, Job], Findings]
