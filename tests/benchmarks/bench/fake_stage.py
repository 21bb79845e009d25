"""A benchmark's stage whose systems do what a test wants; what runs them, and how, is real."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepcache_trt.benchmarks.bench.grid import Cell
from deepcache_trt.benchmarks.bench.stage import Stage
from deepcache_trt.benchmarks.timing.turns import System
from tests.benchmarks.timing.fake_system import fake

# What a system does at its first calls, as "COLUMN/SYSTEM=ACT,ACT;…", and where all of them write what they do.
ACTS, DIARY = "FAKE_STAGE_ACTS", "FAKE_STAGE_DIARY"

# The second system's name.
OTHER = "FAKE_STAGE_OTHER"


@dataclass(frozen=True, kw_only=True)
class FakeStage(Stage):
    """Two systems in each cell, and nothing to build."""

    def reference(self, row: Cell) -> System:
        return fake("reference", rounds=0)

    def systems(self, cell: Cell) -> list[System]:
        column = cell.title.rpartition(", ")[2]
        acts = dict(each.split("=") for each in os.environ.get(ACTS, "").split(";") if each)
        diary = Path(os.environ[DIARY])
        return [
            fake(
                name,
                rounds=2,
                diary=diary,
                acts=acts.get(f"{cell.row}/{column}/{name}".replace("=", ":"), "").split(","),
            )
            for name in ("diffusers", os.environ.get(OTHER, "other"))
        ]


def install(monkeypatch: Any, diary: Path, *, acts: Mapping[str, str] | None = None, other: str = "other") -> None:
    """Let `measure` use it."""
    from deepcache_trt.benchmarks.bench import measure as bench

    monkeypatch.setattr(bench, "Stage", FakeStage)
    monkeypatch.setenv(DIARY, str(diary))
    monkeypatch.setenv(OTHER, other)
    monkeypatch.setenv(ACTS, ";".join(f"{place}={does}" for place, does in (acts or {}).items()))
