"""Measuring a grid: every system of a cell in a process of its own, in turn, and every cell written as it ends.

The record is a dictionary for JSON with "settings", "environment", "command", "builds", "macs", "references" and
"cells"; a run that finds one of the same settings and environment goes on where it ended.
"""

import datetime
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from deepcache_trt.benchmarks.bench.grid import (
    DEEPCACHE,
    NAMES,
    OURS,
    REFERENCE,
    Cell,
    Settings,
    cell_from,
    settings_from,
)
from deepcache_trt.benchmarks.bench.stage import Stage, count_operations, pipeline_folder
from deepcache_trt.benchmarks.fidelity.distances import latent_distances
from deepcache_trt.benchmarks.machine import environment, memory
from deepcache_trt.benchmarks.report import write_json
from deepcache_trt.benchmarks.timing.turns import Outcome, take_turns
from deepcache_trt.documents import read_json
from deepcache_trt.errors import DeepCacheError, first_line
from deepcache_trt.progress import Report

Record = dict[str, Any]
Tell = Callable[[str], None]


def open_record(out: Path, settings: Settings, command: str) -> Record:
    """The record in the file, if it is of these settings in this environment; else a new one where there is none.

    Raises:
        DeepCacheError: the file is something else, or of other settings or another environment.
    """
    here = {**environment(), "memory": memory()}
    fresh: Record = {"settings": settings.record(), "environment": here, "command": command}
    fresh |= {"builds": [], "macs": [], "references": [], "cells": []}
    if not out.exists():
        return fresh
    earlier = read_record(out)
    cure = "give another --out, or delete it to measure anew"
    for part in ("settings", "environment"):
        old, new = ({**each[part], "date": ""} for each in (earlier, json.loads(json.dumps(fresh))))
        changed = [f"{k} {old.get(k)!r} and not {new.get(k)!r}" for k in {**old, **new} if old.get(k) != new.get(k)]
        if changed:
            raise DeepCacheError(f"{out} is a result of another run, its {part} has {'; '.join(changed)}; {cure}")
    return earlier


def read_record(path: Path) -> Record:
    """A record that was written by `measure`.

    Raises:
        DeepCacheError: there is none, or the file is something else.
    """
    try:
        record: Record = read_json(path)
        _ = settings_from(record["settings"]), record["environment"]["CPU"], record["cells"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DeepCacheError(f"{path} is no result of `deepcache-trt bench`: {first_line(error)}") from error
    return record


def measure(
    record: Record, settings: Settings, out: Path, store: Path, *, report: Report, tell: Tell, peer_python: str = ""
) -> None:
    """Measure the cells that the record lacks, and write it after each.

    Args:
        record: of `open_record`; it is added to.
        settings: what is measured.
        out: the JSON file.
        store: where engines and seeded weights are kept.
        report: told how far it is.
        tell: called with a line for each cell that has ended.
        peer_python: the interpreter of an environment for all systems but ours; "": this one.
    """
    finished = {cell_from(entry["cell"]) for entry in record["cells"]}
    missing = [cell for cell in settings.cells if cell not in finished]
    if not missing:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, record)  # what cannot be written is better known now than after the first cell
    folder = pipeline_folder(settings, store)
    meter = _Meter(report, sum(settings.cost(cell) for cell in missing))
    with tempfile.TemporaryDirectory(prefix="deepcache-trt-bench-") as temporary:
        for row in dict.fromkeys(cell.plain for cell in missing):
            stage = Stage(
                settings=settings, folder=folder, store=store, latents=Path(temporary) / row.row, python=peer_python
            )
            stage.latents.mkdir()
            refused = _prepare(record, row, stage, out, meter)
            for cell in (cell for cell in missing if cell.plain == row):
                entry = _measure_cell(cell, stage, refused, meter)
                record["cells"].append(entry)
                write_json(out, record)
                meter.end(settings.cost(cell))
                tell(f"{cell.title}: {_in_words(entry)}; {meter.left}")


def _prepare(record: Record, row: Cell, stage: Stage, out: Path, meter: "_Meter") -> dict[str, str]:
    """Build the engines of a row and draw its reference; returns why systems of ours cannot run, by name."""
    refused: dict[str, str] = {}
    if OURS in stage.settings.systems:
        for name, system in stage.builders(row).items():
            (outcome,) = take_turns([system], meter.say)
            done = {"row": row.record(), "backend": name, "error": outcome.error, "seconds": outcome.load_seconds}
            record["builds"].append({**done, "built": outcome.first.get("built")})
            if outcome.error:
                refused[name] = f"its engines cannot be built: {outcome.error}"
        if row.pixels not in {entry["pixels"] for entry in record["macs"]}:
            record["macs"] += count_operations(stage, row)
    (outcome,) = take_turns([stage.reference(row)], meter.say)
    drawn = {"row": row.record(), "name": outcome.name, "error": outcome.error, "seconds": outcome.first_call_seconds}
    record["references"] = [*(each for each in record["references"] if each["row"] != drawn["row"]), drawn]
    write_json(out, record)
    return refused


def _measure_cell(cell: Cell, stage: Stage, refused: Mapping[str, str], meter: "_Meter") -> dict[str, Any]:
    """The entry of a cell: its outcomes, and how far their latents are from the reference's."""
    unable = {**refused, **_not_installed(stage)}
    systems = stage.systems(cell)
    chosen = [system for system in systems if system.name not in unable]
    meter.begin(cell, events=len(chosen) + sum(system.rounds for system in chosen))
    outcomes = {name: Outcome(name=name, error=error) for name, error in unable.items()}
    if chosen:
        outcomes |= {outcome.name: outcome for outcome in take_turns(chosen, meter.count)}
    alone = []
    for system in chosen if len(chosen) > 1 else ():
        if outcomes[system.name].is_out_of_memory:  # others were in memory beside it
            outcomes[system.name] = take_turns([system], meter.say)[0]
            alone.append(system.name)
    return {
        "cell": cell.record(),
        "outcomes": [asdict(outcomes[system.name]) for system in systems],
        "alone": alone,
        "fidelity": _distances(cell, stage, outcomes),
        "ended": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _in_words(entry: Mapping[str, Any]) -> str:
    """What a cell gave, in a line."""
    told = []
    for outcome in entry["outcomes"]:
        seconds = [sample["seconds"] for sample in outcome["samples"]]
        told.append(f"{outcome['name']} {outcome['error'] or f'{statistics.median(seconds):.3g} s'}")
    return ", ".join(told)


def _not_installed(stage: Stage) -> dict[str, str]:
    if stage.python or find_spec("DeepCache") is not None:
        return {}
    return {NAMES[DEEPCACHE]: "not installed: pip install DeepCache"}


def _distances(cell: Cell, stage: Stage, names: Iterable[str]) -> dict[str, dict[str, float | None]]:
    reference = stage.latents_file(cell.plain, REFERENCE)
    files = {name: stage.latents_file(cell, name) for name in names}
    if not reference.exists():
        return {}
    truth = np.load(reference)
    return {name: latent_distances(truth, np.load(file)) for name, file in files.items() if file.exists()}


class _Meter:
    """How far a grid is, by the estimated cost of its cells."""

    def __init__(self, report: Report, total: float) -> None:
        self._report, self._total = report, total
        self._done = self._begun = self._events = self._expected = 0.0
        self._cell: Cell | None = None
        self._started = time.monotonic()

    def begin(self, cell: Cell, *, events: int) -> None:
        """A cell begins; so many lines will be counted in it."""
        self._cell, self._events, self._expected = cell, 0, max(events, 1)

    def count(self, line: str) -> None:
        """One more system has been loaded, or has drawn."""
        self._events += 1
        self.say(line)

    def say(self, line: str) -> None:
        """Something has happened that takes no time of its own."""
        self._report(done=self._done, total=self._total, detail=f"{line}; {self.left}" if self.left else line)

    def end(self, cost: float) -> None:
        """A cell of this cost has ended."""
        self._done += cost
        self.say("")

    @property
    def left(self) -> str:
        """The time that is left, by that of the cells so far; "" before the first one has ended."""
        if not self._done:
            return ""
        seconds = (time.monotonic() - self._started) / self._done * (self._total - self._done)
        return f"about {duration(seconds)} left" if seconds else "all done"


def duration(seconds: float) -> str:
    """For a person: "40 s", "12 min"."""
    return f"{math.ceil(seconds)} s" if seconds < 100 else f"{seconds / 60:.0f} min"
