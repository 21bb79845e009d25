"""How alike a tap's output is from step to step, which caching lives on (DeepCache, figure 2)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from deepcache_trt.benchmarks.experiments.experiment import Experiment, Findings, Job
from deepcache_trt.benchmarks.experiments.options import OfModel, Prompts
from deepcache_trt.errors import DeepCacheError

if TYPE_CHECKING:
    import numpy as np

    from deepcache_trt.benchmarks.experiments.comparison.samples import Subject
    from deepcache_trt.models.taps import Tap

# Heat maps of a plot, and how many beside each other.
_MAPS, _COLUMNS = 12, 4


@dataclass(frozen=True, kw_only=True)
class _Options(OfModel, Prompts):
    LEAST: ClassVar[Mapping[str, int]] = {"images": 1, "steps": 2, "seed": 0}

    classes: Annotated[tuple[int, ...], "Of a model of classes; repeatable. [default: the first ten]"] = ()
    images: Annotated[int, "Of a model that draws from noise alone."] = 4
    seed: Annotated[int, "Of the first picture; the others count up."] = 0
    steps: Annotated[int, "Denoising steps."] = 50
    guidance: Annotated[float | None, "Guidance scale. [default: the pipeline's]"] = None
    threshold: Annotated[float, "Of the cosine above which two steps count as alike."] = 0.95


def _find(options: _Options, job: Job) -> Findings:
    import numpy as np

    from deepcache_trt.benchmarks.sampling.place import written

    pipe, taps = _loaded(options, job)
    subjects = _subjects(pipe, options)[: job.limit]
    job.folder.begin()
    kept = job.folder.path / "similarity"
    with written(kept):
        kept.mkdir(exist_ok=True)
    with job.progress(f"drawing {len(subjects):,} pictures in plain diffusers") as report:
        for index, subject in enumerate(subjects):
            file = kept / f"{index:06}.npy"
            if not file.exists():
                _save(file, _similarities(pipe, taps, subject, options.seed + index, options))
            report(done=index + 1, total=len(subjects))
    found = np.stack([np.load(kept / f"{index:06}.npy") for index in range(len(subjects))])
    names = [tap.name for tap in taps]
    job.folder.write_samples(_lines_of(subjects, names, found, options))
    mean, least = found.mean(axis=0), options.threshold
    return Findings(
        header=["", "neighbours", f"pairs above {least:g}", "longest interval"],
        lines=[
            [
                name,
                f"{_at(own, 1):.4f}",
                f"{_share(own, options.threshold):.1%}",
                f"{_interval(own, options.threshold)}",
            ]
            for name, own in zip(names, mean, strict=True)
        ],
        remarks=[
            f"cosines of the flattened outputs of each tap at every two of {mean.shape[1]} calls of the denoiser, in "
            f"plain diffusers, means over {len(subjects):,} pictures; samples.jsonl has those of each picture",
            "longest interval: a full call in so many, so that what is reused is on average as alike as that to what "
            "would be computed, up to the last call before the next full one",
        ],
        plot=lambda figure: _plot(figure, names, mean),
    )


def _loaded(options: _Options, job: Job) -> "tuple[Any, Sequence[Tap]]":
    """The pipeline without a cache, and its taps."""
    import torch

    from deepcache_trt.benchmarks.sampling.drawer import load
    from deepcache_trt.builder.model_source import ModelSource
    from deepcache_trt.engines import backends
    from deepcache_trt.models.fresh import dtype_of
    from deepcache_trt.models.registry import architecture_of
    from deepcache_trt.pipelines.cached_denoiser import denoiser_of
    from deepcache_trt.runtime.policies import Uncached

    pipe = load(
        ModelSource(model=options.model, revision=options.revision, variant=options.variant),
        random_weights=False,
        dtype=getattr(torch, str(options.dtype)),
        device=backends.best_device(options.backend),
        options={"policy": Uncached(), "backend": options.backend, "store": job.store},
    )
    pipe.disable_cache()
    pipe.set_progress_bar_config(disable=True)
    denoiser = denoiser_of(pipe)
    return pipe, architecture_of(denoiser, dtype=dtype_of(denoiser)).taps


def _subjects(pipe: Any, options: _Options) -> "Sequence[Subject]":
    from inspect import signature

    from deepcache_trt.benchmarks.sampling.drawer import classes_of
    from deepcache_trt.benchmarks.timing.drawing import prompts_for

    if "prompt" in signature(type(pipe).__call__).parameters:
        return prompts_for(options.model, options.prompt)
    if options.prompt:
        raise DeepCacheError(f"a {type(pipe).__name__} takes no prompt; leave --prompt out")
    return options.classes or classes_of(pipe)[:10] or (None,) * options.images


def _similarities(pipe: Any, taps: "Sequence[Tap]", subject: "Subject", seed: int, options: _Options) -> "np.ndarray":
    """Cosines [taps, calls, calls] float32 of one picture."""
    import numpy as np
    import torch

    from deepcache_trt.pipelines.cached_denoiser import denoiser_of

    with _recorded(denoiser_of(pipe), taps) as features:
        arguments: dict[str, Any] = {"prompt": subject} if isinstance(subject, str) else {}
        if isinstance(subject, int):
            arguments["class_labels"] = [subject]
        if options.guidance is not None:
            arguments["guidance_scale"] = options.guidance
        pipe(generator=torch.Generator().manual_seed(seed), num_inference_steps=options.steps, **arguments)
    found = []
    for own in features.values():
        unit = torch.nn.functional.normalize(torch.stack(own).float(), dim=1)
        found.append((unit @ unit.T).numpy())
    return np.stack(found)


@contextmanager
def _recorded(model: Any, taps: "Sequence[Tap]") -> "Iterator[dict[str, list[Any]]]":
    """What each tap gives at each call within the block, flattened, on the CPU."""
    features: dict[str, list[Any]] = {tap.name: [] for tap in taps}

    def keep(name: str) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            features[name].append(tensor.detach().flatten().cpu())

        return hook

    handles = [model.get_submodule(tap.path).register_forward_hook(keep(tap.name)) for tap in taps]
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()


def _save(file: Path, found: "np.ndarray") -> None:
    import numpy as np

    from deepcache_trt.benchmarks.sampling.place import written

    partial = file.with_name(f"{file.stem}.partial.npy")
    with written(file):
        np.save(partial, found)
        partial.replace(file)


def _lines_of(
    subjects: "Sequence[Subject]", names: Sequence[str], found: "np.ndarray", options: _Options
) -> Iterator[dict[str, Any]]:
    for index, subject in enumerate(subjects):
        for name, own in zip(names, found[index], strict=True):
            figures = {"neighbours": _at(own, 1), "share_above": _share(own, options.threshold)}
            yield {"index": index, "of": subject, "seed": options.seed + index, "tap": name, **figures}


def _at(cosines: "np.ndarray", lag: int) -> float:
    """The mean cosine of calls that are so many apart."""
    return float(cosines.diagonal(lag).mean())


def _share(cosines: "np.ndarray", threshold: float) -> float:
    """Of all pairs of calls, those that are alike."""
    import numpy as np

    pairs = cosines[np.triu_indices(len(cosines), 1)]
    return float((pairs > threshold).mean())


def _interval(cosines: "np.ndarray", threshold: float) -> int:
    """The longest interval of which all calls are on average alike to the first."""
    lags = range(1, len(cosines))
    return next((lag for lag in lags if _at(cosines, lag) < threshold), len(cosines))


def _plot(figure: Any, names: Sequence[str], mean: "np.ndarray") -> None:
    import numpy as np

    chosen = np.unique(np.linspace(0, len(names) - 1, min(_MAPS, len(names))).round().astype(int))
    columns = min(_COLUMNS, len(chosen))
    rows = -(-len(chosen) // columns)
    figure.set_size_inches(2.3 * columns + 0.8, 2.4 * rows)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    least = float(mean[chosen].min())
    for panel in axes.flat[len(chosen) :]:
        panel.set_axis_off()
    for panel, tap in zip(axes.flat, chosen, strict=False):
        image = panel.imshow(mean[tap], vmin=least, vmax=1, cmap="viridis", origin="lower")
        panel.set_title(names[tap], fontsize="small")
    figure.supxlabel("call of the denoiser", fontsize="small")
    figure.colorbar(image, ax=axes, label="cosine", shrink=0.8)


EXPERIMENT = Experiment(
    name="feature-similarity",
    says="How alike each tap's output is from step to step, and which interval that allows.",
    options=_Options,
    find=_find,
)
