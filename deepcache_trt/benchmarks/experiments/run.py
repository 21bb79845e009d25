"""A run of an experiment, from its config to the report in its folder."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from deepcache_trt.benchmarks.experiments.config import Config
from deepcache_trt.benchmarks.experiments.declared import experiment_called
from deepcache_trt.benchmarks.experiments.drawing import Samples, draw_all
from deepcache_trt.benchmarks.experiments.experiment import Setting
from deepcache_trt.benchmarks.experiments.measure import Results, measure
from deepcache_trt.benchmarks.experiments.report import markdown, report_of, save_plot
from deepcache_trt.benchmarks.experiments.results_folder import ResultsFolder
from deepcache_trt.benchmarks.machine import environment
from deepcache_trt.benchmarks.timing.drawing import load_pipes, prompts_for
from deepcache_trt.benchmarks.timing.samplers import parse_sampler
from deepcache_trt.builder.model_source import ModelSource
from deepcache_trt.engines import backends
from deepcache_trt.progress import Progress


def run(
    config: Config,
    out: Path,
    *,
    limit: int | None,
    store: Path | None,
    command: str,
    progress: Progress,
    tell: Callable[[str], None],
) -> Results:
    """Draw what is missing, measure all, and write the report.

    Args:
        config: of the run.
        out: the folder of results.
        limit: take the first so many samples; None: all.
        store: where engines are kept; None: the user's cache.
        command: that the report names.
        progress: how far it is.
        tell: called with what is not done and why.

    Raises:
        DeepCacheError: whatever the user can mend.
    """
    experiment = experiment_called(config.experiment)
    device = backends.best_device(config.backend)
    config = replace(
        config,
        experiment=experiment.name,
        prompts=config.prompts or prompts_for(config.model, None),
        seeds=config.seeds or experiment.seeds,
        backend=str(backends.resolve(config.backend, device)),
        dtype=backends.dtype_or_default(config.dtype, device),
    )

    source = ModelSource(model=config.model, revision=config.revision, variant=config.variant)
    pipes = load_pipes(source, policies=(), backend=config.backend, dtype=config.dtype, store=store)
    asked = (config.schedulers or experiment.schedulers) if experiment.schedulers else ()
    setting = Setting(
        intervals=config.intervals,
        branches=config.branches,
        samplers=tuple(parse_sampler(each, pipes.own_scheduler) for each in asked),
        taps=pipes.branches,
        steps=config.steps,
    )
    cells = experiment.cells(setting)
    for cell in cells:
        pipes.variants(cell.policy)  # what the model cannot have is told before anything is drawn
    samples = Samples(
        prompts=config.prompts,
        seeds=config.seeds or experiment.seeds,
        seed=config.seed,
        steps=config.steps,
        guidance=config.guidance,
        batch=config.batch,
        limit=limit,
    )
    folder, machine = ResultsFolder(out), environment()
    folder.begin(config.record(), machine)
    there = draw_all(pipes, cells, samples, folder, progress)
    if there:
        tell(f"{there:,} of {len(cells) * len(samples):,} pictures were there already")
    with progress(f"measuring {len(cells) * len(samples):,} pictures"):
        results = measure(experiment, cells, samples, folder, clip=config.clip)
    absent = save_plot(experiment, results, folder)
    if absent:
        tell(f"no plot: {absent}")
    report = report_of(experiment, results, command=command, environment=machine)
    plot = "" if absent or experiment.plot is None else "plot.png"
    folder.write_report(report, markdown(report, plot=plot))
    return results
