"""Find the components of the pipeline that a model's name means: in the catalogue, a folder, a file or on the hub."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepcache_trt.builder import component
from deepcache_trt.builder.component import DENOISERS, Component
from deepcache_trt.builder.plain_pipeline import as_checkpoint_error, check_safe, config_folder, load_pipeline
from deepcache_trt.errors import CheckpointError, UnknownNameError, UnsupportedError, did_you_mean, first_line
from deepcache_trt.models.catalogue import CATALOGUE, resolve
from deepcache_trt.models.checkpoint.folder import check_folder, read_index
from deepcache_trt.models.checkpoint.model_class import class_and_config
from deepcache_trt.models.fresh import config_of
from deepcache_trt.models.registry import COVERED, family_of, part_dtype
from deepcache_trt.models.single_file import is_single_file

# Folders of a repository that can hold a covered component.
_DOWNLOADED = (*DENOISERS, "vae", "vqvae", "text_encoder", "text_encoder_2")


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where a model comes from; `revision`, `variant`, `config` and `offline` mean what they mean in diffusers."""

    model: str
    revision: str | None = None
    variant: str | None = None
    config: str | None = None
    offline: bool = False
    allow_pickle: bool = False

    def __post_init__(self) -> None:
        """Refuse configs beside those that a folder has."""
        if self.config is not None and not is_single_file(self.model):
            raise CheckpointError(
                f"{self.model} is not one file, and has configs of its own; leave config={self.config!r} out"
            )

    def pretrained_arguments(self) -> dict[str, Any]:
        """The same as arguments of `from_pretrained`."""
        given = {"revision": self.revision, "variant": self.variant, "config": self.config}
        given = {name: value for name, value in given.items() if value is not None}
        return {**given, "local_files_only": self.offline, "use_safetensors": not self.allow_pickle}


def random_components(model: str, *, dtype: str, parts: Sequence[str] = (), seed: int = 0) -> list[Component]:
    """A catalogue model's real architecture with seeded weights: the components called `parts`, or all of them.

    Raises:
        UnknownNameError: `model` is not in the catalogue, or has no such component.
    """
    entry = CATALOGUE.get(model)
    if entry is None:
        raise UnknownNameError(
            f"--random-weights needs a catalogue name, not {model!r}; there are {', '.join(CATALOGUE)}"
        )
    if not entry.parts:
        return find_components(ModelSource(model=model), dtype=dtype, parts=parts)
    return [
        component.from_architecture(
            entry.parts[part].model_class(), entry.parts[part].config, name=model, part=part, dtype=dtype, seed=seed
        )
        for part in _chosen(parts, list(entry.parts), model)
    ]


def find_components(source: ModelSource, *, dtype: str, parts: Sequence[str] = ()) -> list[Component]:
    """The covered components of a model, read from its folders without loading the pipeline around them.

    Args:
        source: which model.
        dtype: the pipeline's precision.
        parts: names of components, as "unet"; none: all that are covered, the denoiser first.

    Raises:
        UnknownNameError: no such model, or no such component.
        CheckpointError: a model that cannot be had, or one whose weights are only a pickle.
        UnsupportedError: a component that was asked for and is not covered.
    """
    if is_single_file(source.model):
        return _components_of_file(source, dtype, parts)
    pipeline = pipeline_folder(source)
    if source.model not in CATALOGUE:
        check_folder(pipeline, allow_pickle=source.allow_pickle)
    chosen = _chosen(parts, _components_of(pipeline), source.model)
    components = []
    for part in chosen:
        try:
            components.append(_find(pipeline / part, source, dtype))
        except UnsupportedError:
            if part in (*parts, *DENOISERS):
                raise
    if not parts and not any(part in DENOISERS for part in chosen):
        raise CheckpointError(f"{source.model} has neither a unet nor a transformer with a config.json")
    return components


def pipeline_folder(source: ModelSource) -> Path:
    """Where a model's folders are, of which weights are downloaded too; of one file, where its configs are.

    Raises:
        CheckpointError: it cannot be had.
    """
    if is_single_file(source.model):
        check_safe(source.model, allow_pickle=source.allow_pickle)
        return config_folder(source.model, config=source.config, revision=source.revision, offline=source.offline)
    found = resolve(source.model)
    return Path(found) if Path(found).is_dir() else _download(found, source)


def _components_of_file(source: ModelSource, dtype: str, parts: Sequence[str]) -> list[Component]:
    """Those of the pipeline that diffusers makes of one file, which is loaded whole to be converted."""
    import torch
    from diffusers import DiffusionPipeline

    arguments = {**source.pretrained_arguments(), "dtype": getattr(torch, dtype)}
    pipe = load_pipeline(DiffusionPipeline, source.model, arguments)
    models = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    components = []
    for part in _chosen(parts, sorted(models, key=lambda name: name not in DENOISERS), source.model):
        model: Any = models[part]
        if type(model).__name__ in COVERED:
            model = model.to(getattr(torch, part_dtype(config_of(model), dtype))).eval()
            components.append(component.from_model(model, name=source.model, part=part))
        elif part in (*parts, *DENOISERS):
            family_of(type(model).__name__)
    return components


def _components_of(pipeline: Path) -> list[str]:
    """The models of a pipeline's folder, the denoiser first; a tokenizer or scheduler has no config.json."""
    models = [part for part in read_index(pipeline) if (pipeline / part / "config.json").is_file()]
    return sorted(models, key=lambda part: part not in DENOISERS)


def _chosen(parts: Sequence[str], known: Sequence[str], model: str) -> list[str]:
    for part in parts:
        if part not in known:
            raise UnknownNameError(
                f"{model} has no component {part!r}{did_you_mean(part, list(known))}; it has {', '.join(known)}"
            )
    return list(parts or known)


def _find(folder: Path, source: ModelSource, dtype: str) -> Component:
    if not source.allow_pickle:
        return component.from_folder(folder, name=source.model, dtype=dtype, variant=source.variant)
    import torch

    kind, config = class_and_config(folder)
    family_of(kind.__name__)
    with as_checkpoint_error(folder, "complete the checkpoint"):
        model = kind.from_pretrained(folder, dtype=getattr(torch, dtype), variant=source.variant, use_safetensors=False)
    model = model.to(getattr(torch, part_dtype(config, dtype)))
    return component.from_model(model.eval(), name=source.model, part=folder.name)


def _download(repository: str, source: ModelSource) -> Path:
    from huggingface_hub import snapshot_download

    suffix = "bin" if source.allow_pickle else "safetensors"
    wanted = [f"{part}/*.{end}" for part in _DOWNLOADED for end in ("json", suffix)]
    try:
        folder = snapshot_download(
            repository,
            revision=source.revision,
            local_files_only=source.offline,
            allow_patterns=["model_index.json", *wanted],
        )
    except (OSError, ValueError) as error:  # huggingface_hub's errors are of these families
        if source.offline:
            raise CheckpointError(
                f"{repository} is not on this machine; download it first, or give a local folder"
            ) from error
        raise CheckpointError(
            f"cannot get {repository!r}: {first_line(error)}; "
            f"check the name, the network and your access, or give a local folder"
        ) from error
    return Path(folder)
