"""What a benchmark's record says: medians, speed-ups, shares and margins. Nothing else reads the record of a cell."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepcache_trt.benchmarks.bench.grid import (
    DEEPCACHE,
    DIFFUSERS,
    NAMES,
    Cell,
    Settings,
    baseline_of,
    cell_from,
    is_ours,
    settings_from,
)
from deepcache_trt.benchmarks.bench.published import allowed_speedup
from deepcache_trt.benchmarks.counting.macs import Macs
from deepcache_trt.benchmarks.timing.turns import Outcome, Spread, ratio, spread
from deepcache_trt.runtime.plan import FULL
from deepcache_trt.runtime.policies.deepcache import SHALLOW, DeepCache
from deepcache_trt.runtime.policies.policy import Policy, policy_from_json

SECONDS, LOOP = "seconds", "loop_seconds"


@dataclass(frozen=True, kw_only=True)
class Margin:
    """How many times as long as ours a peer takes for a cell, in each round.

    The two calls of a round are neighbours: a machine whose pace changes within a minute changes their ratio little.
    """

    cell: Cell
    ours: str
    peer: str
    ratio: Spread


@dataclass(frozen=True, kw_only=True)
class Build:
    """The engines of a row on a backend, built before its cells were measured.

    Attributes:
        row: its plain cell.
        backend: of the engines.
        error: why they could not be built; "" where they could.
        seconds: that it took; None where it failed.
        built: the engines that the store did not have.
    """

    row: Cell
    backend: str
    error: str
    seconds: float | None
    built: tuple[str, ...]


class Figures:
    """What a record says, by cell and system.

    Attributes:
        settings: of the grid.
        environment: of the machine.
        command: that measured it.
        builds: of engines, in order.
        references: what became of the system that draws the reference, by the plain cell of its row.
        outcomes: what became of each system, by cell and name.
        distances: of each system's latents from the reference's, by cell and name.
        alone: systems that did not fit beside the others, by cell.
        ended: when the last cell was; "" where none is measured yet.
    """

    def __init__(self, record: Mapping[str, Any]) -> None:
        """Read a record of `bench.measure`, finished or not."""
        self.settings: Settings = settings_from(record["settings"])
        self.environment: Mapping[str, str] = record["environment"]
        self.command: str = record["command"]
        self.builds = [
            Build(**{**entry, "row": cell_from(entry["row"]), "built": tuple(entry["built"] or ())})
            for entry in record["builds"]
        ]
        self.references = {
            cell_from(entry["row"]): Outcome(
                name=entry["name"], error=entry["error"], first_call_seconds=entry["seconds"]
            )
            for entry in record["references"]
        }
        self.outcomes: dict[Cell, dict[str, Outcome]] = {}
        self.distances: dict[Cell, Mapping[str, Mapping[str, float | None]]] = {}
        self.alone: dict[Cell, list[str]] = {}
        self.ended = ""
        for entry in record["cells"]:
            cell = cell_from(entry["cell"])
            self.outcomes[cell] = {each["name"]: _outcome(each) for each in entry["outcomes"]}
            self.distances[cell] = entry["fidelity"]
            self.alone[cell] = entry["alone"]
            self.ended = entry["ended"]
        self._macs = {
            (entry["pixels"], policy): macs
            for entry in record["macs"]
            for policy, macs in _operations(entry, self.settings.caching)
        }

    @property
    def began(self) -> str:
        """When the measuring did."""
        return self.environment["date"]

    @property
    def hardware(self) -> str:
        """What the record was measured on."""
        return self.environment["GPU" if self.settings.device == "cuda" else "CPU"]

    @property
    def rows(self) -> list[Cell]:
        """The plain cell of each row, in the order of the grid."""
        return [cell for cell in self.settings.cells if cell.is_plain]

    @property
    def names(self) -> list[str]:
        """Of all systems, ours first; the package's row has the plain column of diffusers."""
        names = dict.fromkeys(name for outcomes in self.outcomes.values() for name in outcomes)
        if DEEPCACHE in self.settings.systems and self.settings.caching:
            names.pop(NAMES[DIFFUSERS], None)
        return list(names)

    def outcome(self, cell: Cell, name: str) -> Outcome | None:
        """What became of a system in a cell, for the package's plain cell that of diffusers; None: it has none."""
        return self.outcomes.get(cell, {}).get(baseline_of(name) if cell.is_plain else name)

    def median(self, cell: Cell, name: str, figure: str = SECONDS) -> float | None:
        """The median of one figure; None where there is none."""
        outcome = self.outcome(cell, name)
        if outcome is None or outcome.error:
            return None
        values = [sample[figure] for sample in outcome.samples if sample.get(figure) is not None]
        return spread(values).median if values else None

    def speedup(self, cell: Cell, name: str, figure: str = SECONDS) -> float | None:
        """Over the plain cell of the same row and system; None there, and where either has no figure."""
        if cell.is_plain:
            return None
        plain, cached = self.median(cell.plain, name, figure), self.median(cell, name, figure)
        return plain / cached if plain and cached else None

    def allowed(self, cell: Cell) -> float | None:
        """The speed-up that the count of operations allows; None where they were not counted."""
        macs = self._macs.get((cell.pixels, cell.policy))
        if macs is None or cell.is_plain:
            return None
        return allowed_speedup(macs, cell.policy.plan(self.settings.steps)).whole

    def share(self, cell: Cell, name: str) -> float | None:
        """The speed-up of the denoising loop over the one that operations allow."""
        speedup, allowed = self.speedup(cell, name, LOOP), self.allowed(cell)
        return speedup / allowed if speedup and allowed else None

    @property
    def margins(self) -> list[Margin]:
        """Of every peer that came through, in every cell where ours did."""
        return [
            Margin(cell=cell, ours=ours, peer=peer, ratio=ratio(outcomes[peer], outcomes[ours], SECONDS))
            for cell, outcomes in self.outcomes.items()
            for ours in outcomes
            for peer in outcomes
            if is_ours(ours) and not is_ours(peer)
            if not outcomes[ours].error and not outcomes[peer].error
        ]


def _operations(entry: Mapping[str, Any], caching: Sequence[Policy]) -> Iterator[tuple[Policy, dict[str, Macs]]]:
    """An entry of operations, for each policy that it is of: there may be one for all that cache at a branch."""
    if "branch" not in entry:
        counts = {name: Macs(**count) for name, count in entry["variants"].items()}
        yield policy_from_json(entry["policy"]), counts
        return
    for policy in caching:
        if isinstance(policy, DeepCache) and policy.cache_branch_id == entry["branch"]:
            yield policy, {name: Macs(**entry[name]) for name in (FULL, SHALLOW)}


def _outcome(record: Mapping[str, Any]) -> Outcome:
    return Outcome(**{**record, "samples": tuple(record["samples"])})
