"""The models that have a name here."""

from pathlib import Path
from typing import Any

from deepcache_trt.errors import CheckpointError, UnknownNameError, UnsupportedError, did_you_mean
from deepcache_trt.models.entries.ddpm import DDPM
from deepcache_trt.models.entries.digits import DIGITS
from deepcache_trt.models.entries.dit import DIT
from deepcache_trt.models.entries.entry import Entry
from deepcache_trt.models.entries.ldm import LDM
from deepcache_trt.models.entries.stable_diffusion import STABLE_DIFFUSION
from deepcache_trt.models.entries.uvit import UVIT
from deepcache_trt.models.single_file import is_single_file

CATALOGUE: dict[str, Entry] = {**DIGITS, **STABLE_DIFFUSION, **LDM, **DDPM, **DIT, **UVIT}


def resolve(model: Any) -> Any:
    """What diffusers loads for `model`: a catalogue name becomes its folder or hub id, the rest stays.

    Raises:
        UnknownNameError: neither a catalogue name, nor a folder, nor of the form owner/name.
        CheckpointError: a folder without a `model_index.json`.
        UnsupportedError: a catalogue name without a checkpoint.
    """
    name = str(model)
    if name in CATALOGUE:
        source = CATALOGUE[name].source
        if source is None:
            raise UnsupportedError(
                f"the weights of {name} are not published in the form of diffusers; convert them and give the folder, "
                f"or build its architecture with --random-weights"
            )
        return source
    if Path(name).is_dir():
        if not (Path(name) / "model_index.json").is_file():
            raise CheckpointError(f"{name} is no diffusers model: it has no model_index.json; save one there first")
        return model
    check_name(name)
    return model


def check_name(name: str) -> None:
    """Raise UnknownNameError for what can name no model; nothing large is imported to find out."""
    is_hub_id = name.count("/") == 1 and not name.startswith(("/", ".", "~"))
    if not (name in CATALOGUE or is_hub_id or is_single_file(name) or Path(name).is_dir()):
        raise UnknownNameError(
            f"unknown model {name!r}{did_you_mean(name, list(CATALOGUE))}; give a folder, a hub id (owner/name), "
            f"or one of {', '.join(CATALOGUE)}"
        )
