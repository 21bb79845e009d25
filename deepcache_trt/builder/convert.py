"""From a checkpoint in its original layout to the folder of a diffusers pipeline."""

import argparse
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch

from deepcache_trt.builder.plain_pipeline import load_component
from deepcache_trt.documents import check_plain
from deepcache_trt.errors import CheckpointError, UnknownNameError, UnsupportedError, did_you_mean, first_line
from deepcache_trt.models.catalogue import CATALOGUE
from deepcache_trt.models.definitions.pipelines import pipeline_class
from deepcache_trt.models.entries.entry import Entry, ModelConfig, TorchConfig
from deepcache_trt.models.fresh import empty_model
from deepcache_trt.models.originals.original import Original, check_fits

# Where training keeps its weights beside other things, those that are meant to be drawn with first.
_INSIDE = ("ema", "state_dict", "model")

# A list that ddim's training writes: weights, the optimizer, epoch, step, and the average of the weights.
_OF_DDIM = 4

# The VAE that DiT and U-ViT were trained with.
VAE = "stabilityai/sd-vae-ft-ema"


def convert(checkpoint: Path, name: str, out: Path, *, vae: str = VAE) -> None:
    """Write the folder of a pipeline.

    Args:
        checkpoint: a .safetensors file, or what torch saved; code in it is not run.
        name: of the catalogue, whose architecture the checkpoint is of.
        out: the folder, which must not be there.
        vae: the folder or hub id of the VAE, where the model has one that is published apart.

    Raises:
        UnknownNameError: no such model.
        UnsupportedError: none whose original layout is known.
        CheckpointError: a checkpoint that cannot be read, or of another architecture; a folder that is there.
    """
    entry, original = _known(name)
    if out.exists():
        raise CheckpointError(f"{out} is there already; choose another --out")
    configs: Mapping[str, ModelConfig | TorchConfig] = {**entry.parts, **entry.beside}
    tensors = read_tensors(checkpoint)
    models = {
        part: _model(configs[part], rename(tensors, configs[part].config), what=f"the {part} of {name}")
        for part, rename in original.parts.items()
    }
    _save(_pipeline(original, models, vae), out)


def read_tensors(checkpoint: Path) -> Mapping[str, torch.Tensor]:
    """The tensors of a checkpoint by name; of one that holds an average of the weights too, that one.

    Raises:
        CheckpointError: it cannot be read, or it holds no weights.
    """
    try:
        check_plain(checkpoint)
    except OSError as error:
        raise CheckpointError(f"cannot read {checkpoint}: {error.strerror}; give another file") from error
    found = _read_safetensors(checkpoint) if checkpoint.suffix == ".safetensors" else _read_torch(checkpoint)
    if isinstance(found, list | tuple) and found:
        found = found[_OF_DDIM] if len(found) > _OF_DDIM else found[0]
    for key in _INSIDE:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if (
        not isinstance(found, Mapping)
        or not found
        or not all(isinstance(each, torch.Tensor) for each in found.values())
    ):
        raise CheckpointError(f"{checkpoint} holds no weights by name, but {type(found).__name__}; give a checkpoint")
    return {name.removeprefix("module."): tensor for name, tensor in found.items()}  # of DataParallel


def _read_safetensors(checkpoint: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(checkpoint)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read {checkpoint}: {first_line(error)}; give another file") from error


def _read_torch(checkpoint: Path) -> Any:
    import pickle

    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # the arguments of a training
            return torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise CheckpointError(f"cannot read {checkpoint}: {first_line(error)}; give another file") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{checkpoint} holds more than tensors and plain values, which could run code; save its weights alone, "
            f"with torch.save(model.state_dict(), …), and convert that"
        ) from error


def _known(name: str) -> tuple[Entry, Original]:
    can_be = [each for each, entry in CATALOGUE.items() if entry.original is not None]
    if name not in CATALOGUE:
        raise UnknownNameError(f"unknown model {name!r}{did_you_mean(name, can_be)}; give one of {', '.join(can_be)}")
    entry = CATALOGUE[name]
    if entry.original is None:
        raise UnsupportedError(f"no original layout of {name} is known; there is one of {', '.join(can_be)}")
    return entry, entry.original


def _model(part: ModelConfig | TorchConfig, tensors: Mapping[str, torch.Tensor], *, what: str) -> Any:
    """The model of a config with these weights."""
    model: Any = empty_model(part.model_class(), part.config)
    wanted = model.state_dict()
    check_fits(tensors, wanted, what=what)
    # What stands in several places must be several tensors, or it is not saved.
    weights = {key: tensors[key].to(torch.float32, copy=True, memory_format=torch.contiguous_format) for key in wanted}
    model.load_state_dict(weights, assign=True)
    return model


def _pipeline(original: Original, models: Mapping[str, Any], vae: str) -> Any:
    import diffusers

    class_name, config = original.scheduler
    parts = {**models, "scheduler": getattr(diffusers, class_name)(**config)}
    if original.wants_vae:
        parts["vae"] = load_component(diffusers.AutoencoderKL, vae, "give --vae with a folder that has it")
    return pipeline_class(original.pipeline)(**parts)


def _save(pipe: Any, out: Path) -> None:
    """Whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        pipe.save_pretrained(temporary)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
