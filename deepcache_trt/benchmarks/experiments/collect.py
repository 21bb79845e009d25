"""All results under a folder as one page and one table of numbers, each with its run, hardware and command."""

import csv
import io
import shutil
from pathlib import Path
from typing import Any

from deepcache_trt.benchmarks.experiments.report import Report, markdown
from deepcache_trt.benchmarks.experiments.results_folder import PLOT, REPORT, write_whole
from deepcache_trt.benchmarks.sampling.place import written
from deepcache_trt.documents import read_json
from deepcache_trt.errors import DeepCacheError, first_line

# The page, and the folder beside it with its plots and the table of numbers.
PAGE, FOLDER, NUMBERS = "experiments.md", "experiments", "experiments.csv"

_HEAD = """# Experiments

Each section is one run of `deepcache-trt experiment`, on the machine that it names; `deepcache-trt experiment report`
wrote the page. The same command draws it anew, with other models and prompts too. Where the papers measured the same
thing, their figures stand beside.

"""


def collect(results: Path, out: Path) -> list[Report]:
    """Write the page into a folder, and the numbers and the plots into one beside it.

    Args:
        results: a folder with those of experiments anywhere below it.
        out: the folder.

    Raises:
        DeepCacheError: there are none, or one cannot be read.
    """
    paths = sorted(results.rglob(REPORT))
    if not paths:
        raise DeepCacheError(f"there are no results of experiments in {results}; run some into folders there")
    reports = [_read(path) for path in paths]
    beside = out / FOLDER
    with written(beside):
        beside.mkdir(parents=True, exist_ok=True)
    sections, rows = list[str](), list[dict[str, str]]()
    for path, report in zip(paths, reports, strict=True):
        run = "-".join(path.parent.relative_to(results).parts) or report.experiment
        plot = f"{run}.png" if (path.parent / PLOT).exists() else ""
        if plot:
            with written(beside):
                shutil.copyfile(path.parent / PLOT, beside / plot)
        sections.append(markdown(report, plot=f"{FOLDER}/{plot}" if plot else "", level=2))
        where = {"run": run, "experiment": report.experiment, "GPU": report.environment.get("GPU", "")}
        where |= {"CPU": report.environment.get("CPU", ""), "command": report.command}
        rows += [where | _cells(report, line) for line in report.lines]
    write_whole(out / PAGE, _HEAD + "\n".join(sections))
    write_whole(beside / NUMBERS, _csv(rows))
    return reports


def _read(path: Path) -> Report:
    try:
        found: Any = read_json(path)
        header, lines = tuple(found.pop("header")), tuple(map(tuple, found.pop("lines")))
        return Report(header=header, lines=lines, remarks=tuple(found.pop("remarks")), **found)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DeepCacheError(
            f"{path} is no report of an experiment ({first_line(error)}); run the experiment again, or take it away"
        ) from error


def _cells(report: Report, line: tuple[str, ...]) -> dict[str, str]:
    return {name or "cell": cell for name, cell in zip(report.header, line, strict=True)}


def _csv(rows: list[dict[str, str]]) -> str:
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
