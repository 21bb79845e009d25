"""A whole training of a router: loading, the steps with their checkpoints, and what is told meanwhile."""

import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from deepcache_trt.benchmarks.timing.drawing import DIGITS as PROMPTS
from deepcache_trt.builder.component import DENOISERS
from deepcache_trt.builder.model_source import ModelSource
from deepcache_trt.builder.plain_pipeline import load_pipeline
from deepcache_trt.errors import DeepCacheError, UnsupportedError
from deepcache_trt.models.architecture import Architecture
from deepcache_trt.models.entries.digits import DIGITS
from deepcache_trt.models.registry import architecture_of
from deepcache_trt.progress import Progress
from deepcache_trt.runtime.policies.router_file import RouterFile
from deepcache_trt.training.data import digits, read_data
from deepcache_trt.training.examples import Examples, Source, examples_of
from deepcache_trt.training.pair_loss import Teacher, teacher_of
from deepcache_trt.training.router_training import Recipe, RouterTraining

# What a writer of TensorBoard's is told: a name, a value and the step.
Write = Callable[[str, float, int], None]


def prepare(
    source: ModelSource, data: Path | None, recipe: Recipe, accelerator: Accelerator
) -> tuple[Teacher, Examples]:
    """Load a model, and encode what it is trained on.

    Args:
        source: of the model.
        data: see `read_data`; None: the digits, for the models that come with the package.
        recipe: of the training.
        accelerator: says on which device.

    Raises:
        CheckpointError, UnknownNameError: the model cannot be had.
        UnsupportedError: it has no taps, or its pipeline takes more than prompts or classes.
        DeepCacheError: no data, or such as do not fit the model.
    """
    import torch
    from diffusers import DiffusionPipeline

    arguments = {**source.pretrained_arguments(), "dtype": torch.float32}
    pipe = load_pipeline(DiffusionPipeline, source.model, arguments).to(accelerator.device)
    pipe.set_progress_bar_config(disable=True)
    model = next((found for part in DENOISERS if (found := getattr(pipe, part, None)) is not None), None)
    if model is None:
        raise UnsupportedError(f"a {type(pipe).__name__} has no {' and no '.join(DENOISERS)} that could be cached")
    architecture = architecture_of(model, dtype="float32")
    teacher = teacher_of(model, architecture, pipe.scheduler, recipe.steps)
    images = _source(source.model, data, architecture)
    return teacher, examples_of(pipe, model, architecture, images, recipe.seed)


def _source(model: str, data: Path | None, architecture: Architecture) -> Source:
    has_prompts = any(spec.name == "encoder_hidden_states" for spec in architecture.inputs)
    if data is not None:
        return read_data(data, architecture.own_size, classes=not has_prompts)
    if model not in DIGITS:
        raise DeepCacheError(
            f"{model} has to be shown images of the kind that it draws; give them with --data, a folder of folders of "
            f"images or an .npz file of latents (only {', '.join(DIGITS)} bring their own)"
        )
    return digits(architecture.own_size[0], prompts=PROMPTS if has_prompts else None)


def train(
    training: RouterTraining,
    *,
    until: int,
    about: Mapping[str, Any],
    checkpoint: Path | None,
    checkpoint_every: int,
    log_every: int,
    progress: Progress,
    write: Write,
) -> None:
    """Train until so many steps are done.

    Args:
        training: new or resumed.
        until: steps of training, those before a stop among them.
        about: see `RouterTraining.save`.
        checkpoint: where to write them, at the end too; None: this process does not.
        checkpoint_every: so many steps.
        log_every: so many steps are told of together.
        progress: a live line.
        write: called with the figures.
    """
    with progress("training the router") as report:
        figures = []
        while training.done < until:
            figures.append(training.step())
            if training.done % log_every == 0 or training.done == until:
                loss, error = (statistics.mean(getattr(each, name) for each in figures) for name in ("loss", "error"))
                removed = training.removed
                report(done=training.done, total=until, detail=f"loss {loss:.3g}, {removed:.1%} removed at one half")
                for name, value in {"loss": loss, "error": error, "removed": removed}.items():
                    write(f"router/{name}", value, training.done)
                figures.clear()
            if checkpoint is not None and (training.done % checkpoint_every == 0 or training.done == until):
                training.save(checkpoint, about)


def trained_router(training: RouterTraining, teacher: Teacher, about: Mapping[str, Any]) -> RouterFile:
    """What was learnt, with the facts of the training."""
    taps = tuple(tap.name for tap in teacher.architecture.taps)
    return RouterFile(logits=training.logits, taps=taps, about={**about, "trained_steps": training.done})


@contextmanager
def tensorboard(folder: Path | None) -> Iterator[Write]:
    """Writes figures to a folder for TensorBoard; None: nowhere.

    Raises:
        DeepCacheError: TensorBoard is not installed.
    """
    if folder is None:
        yield lambda name, value, step: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise DeepCacheError(
            "--tensorboard writes with the package tensorboard; pip install 'deepcache-trt[train]', or leave it out"
        ) from error
    writer: Any = SummaryWriter(str(folder))
    try:
        yield writer.add_scalar
    finally:
        writer.close()
