"""The folder of an experiment's results, which a run that was killed goes on filling.

config.json         what was asked for, to be given again as --config
environment.json    the machine and versions of the last run
images/<cell>/      a PNG for each sample, named by its index
draws.jsonl         a line for each batch that was drawn: its seconds and operations
samples.jsonl       a line for each sample: what it is of, and its figures
report.json         the table and what has to be known to read it
table.md, plot.png, plot.svg
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deepcache_trt.benchmarks.report import write_json
from deepcache_trt.benchmarks.sampling.place import check_settings, written

CONFIG, ENVIRONMENT, DRAWS, SAMPLES = "config.json", "environment.json", "draws.jsonl", "samples.jsonl"
REPORT, PLOT = "report.json", "plot.png"


class ResultsFolder:
    """One of them."""

    def __init__(self, path: Path, *, config: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        """Nothing is made before `begin`.

        Args:
            path: where.
            config: what pictures and figures depend on, as JSON has it.
            environment: of this run.
        """
        self.path = path
        self.config, self.environment = config, environment

    @property
    def images(self) -> Path:
        """Where the folders of the cells are."""
        return self.path / "images"

    def begin(self) -> None:
        """Make it, or take it up again.

        Raises:
            DeepCacheError: it holds the results of another config, or cannot be written.
        """
        with written(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            if (self.path / CONFIG).exists():
                check_settings(self.path / CONFIG, self.config)
            else:
                write_json(self.path / CONFIG, dict(self.config))
            write_json(self.path / ENVIRONMENT, dict(self.environment))

    def add_draw(self, draw: Mapping[str, Any]) -> None:
        """Append a line about a batch, on the disk before the next one is drawn."""
        with written(self.path), (self.path / DRAWS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(draw, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def draws(self) -> list[dict[str, Any]]:
        """What was appended; a line that a kill cut short is left out."""
        found = []
        path = self.path / DRAWS
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def write_report(self, report: Any, page: str) -> None:
        """Replace the table, as JSON and as a page; `report` is a dataclass."""
        with written(self.path):
            write_json(self.path / REPORT, asdict(report))
        write_whole(self.path / "table.md", page)

    def write_samples(self, samples: Iterable[Mapping[str, Any]]) -> None:
        """Replace the file of samples."""
        lines = [json.dumps(sample, allow_nan=False, ensure_ascii=False) for sample in samples]
        write_whole(self.path / SAMPLES, "\n".join(lines) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Replace a file: whoever reads it sees the old text or the new one."""
    with written(path.parent):
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
