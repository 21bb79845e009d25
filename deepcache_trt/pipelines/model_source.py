"""Find the denoiser that a model's name means: in the catalogue, in a folder, or on the hub."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepcache_trt.errors import CheckpointError, UnknownNameError, first_line
from deepcache_trt.models.catalogue import CATALOGUE, resolve
from deepcache_trt.pipelines import denoiser
from deepcache_trt.pipelines.denoiser import Denoiser


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where a model comes from; `revision`, `variant` and `offline` mean what they mean in diffusers."""

    model: str
    revision: str | None = None
    variant: str | None = None
    offline: bool = False
    allow_pickle: bool = False

    def pretrained_arguments(self) -> dict[str, Any]:
        """The same as arguments of `from_pretrained`."""
        return {
            "revision": self.revision,
            "variant": self.variant,
            "local_files_only": self.offline,
            "use_safetensors": not self.allow_pickle,
        }


def random_denoiser(model: str, *, dtype: str, seed: int = 0) -> Denoiser:
    """A catalogue model's real architecture with seeded weights.

    Raises:
        UnknownNameError: `model` is not in the catalogue.
    """
    entry = CATALOGUE.get(model)
    if entry is None:
        raise UnknownNameError(
            f"--random-weights needs a catalogue name, not {model!r}; there are {', '.join(CATALOGUE)}"
        )
    if entry.config is None:
        return denoiser.from_folder(Path(entry.source) / "unet", name=model, dtype=dtype)
    import diffusers

    model_class = getattr(diffusers, entry.model_class)
    return denoiser.from_architecture(model_class, entry.config, name=model, dtype=dtype, seed=seed)


def find_denoiser(source: ModelSource, *, dtype: str) -> Denoiser:
    """The denoiser of a model, read from its folder without loading the pipeline around it.

    Raises:
        UnknownNameError: no such model.
        CheckpointError: a model that cannot be had, or one whose weights are only a pickle.
    """
    found = resolve(source.model)
    pipeline = Path(found) if Path(found).is_dir() else _download(found, source)
    folder = next((f for f in (pipeline / "unet", pipeline / "transformer") if (f / "config.json").is_file()), None)
    if folder is None:
        raise CheckpointError(f"{source.model} has neither a unet nor a transformer with a config.json")
    if not source.allow_pickle:
        return denoiser.from_folder(folder, name=source.model, dtype=dtype, variant=source.variant)
    return _from_pickle(folder, source, dtype)


def _download(repository: str, source: ModelSource) -> Path:
    from huggingface_hub import snapshot_download

    suffix = "bin" if source.allow_pickle else "safetensors"
    wanted = [f"{part}/*.{end}" for part in ("unet", "transformer") for end in ("json", suffix)]
    try:
        folder = snapshot_download(
            repository,
            revision=source.revision,
            local_files_only=source.offline,
            allow_patterns=["model_index.json", *wanted],
        )
    except (OSError, ValueError) as error:  # huggingface_hub's errors are of these families
        raise CheckpointError(
            f"cannot get {repository!r}: {first_line(error)}; "
            f"check the name, the network and your access, or give a local folder"
        ) from error
    return Path(folder)


def _from_pickle(folder: Path, source: ModelSource, dtype: str) -> Denoiser:
    import torch

    kind, _ = denoiser.read_config(folder)
    model = kind.from_pretrained(folder, dtype=getattr(torch, dtype), variant=source.variant, use_safetensors=False)
    return denoiser.from_model(model.eval(), name=source.model)
