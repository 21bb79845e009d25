"""A run of an experiment, from what it is asked for to the report in its folder."""

from collections.abc import Callable
from pathlib import Path

from deepcache_trt.benchmarks.experiments.experiment import Experiment, Given, Job, Workers
from deepcache_trt.benchmarks.experiments.report import Report, markdown, report_of, save_plot
from deepcache_trt.benchmarks.experiments.results_folder import PLOT, ResultsFolder
from deepcache_trt.benchmarks.machine import environment
from deepcache_trt.progress import Progress


def run(
    experiment: Experiment[Given],
    options: Given,
    out: Path,
    *,
    store: Path | None,
    limit: int | None = None,
    workers: Workers | None = None,
    command: str,
    progress: Progress,
    tell: Callable[[str], None],
) -> Report:
    """Do what is missing, and write the report.

    Args:
        experiment: which one.
        options: what it is asked for.
        out: the folder of results.
        store: see `Job`.
        limit: likewise.
        workers: likewise.
        command: that the report names.
        progress: see `Job`.
        tell: likewise.

    Raises:
        DeepCacheError: whatever the user can mend.
    """
    options = options.resolved()
    folder = ResultsFolder(out, config={"experiment": experiment.name, **options.record()}, environment=environment())
    job = Job(folder=folder, store=store, limit=limit, workers=workers, progress=progress, tell=tell)
    findings = experiment.find(options, job)
    absent = save_plot(findings.plot, folder.path)
    if absent:
        tell(f"no plot: {absent}")
    report = report_of(experiment.name, experiment.says, findings, command=command, environment=folder.environment)
    folder.write_report(report, markdown(report, plot=PLOT if findings.plot is not None and not absent else ""))
    return report
