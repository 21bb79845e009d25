"""The folder of one model as diffusers and transformers save it: which files hold its weights, and what it is."""

import json
from pathlib import Path
from typing import Any

from deepcache_trt.errors import CheckpointError
from deepcache_trt.models.registry import family_of

# The stems of weight files: those of diffusers and those of transformers.
_STEMS = ("diffusion_pytorch_model", "model")


def checkpoint_files(folder: Path, *, variant: str | None) -> tuple[Path, ...]:
    """The safetensors files of a model folder: one, or the shards that its index lists.

    Raises:
        CheckpointError: there are none; says so where there is a pickle instead.
    """
    for stem in _STEMS:
        single = folder / f"{stem}{f'.{variant}' if variant else ''}.safetensors"
        if single.is_file():
            return (single,)
        # diffusers has written the variant on either side.
        for index in (Path(f"{single}.index.json"), folder / f"{stem}.safetensors.index.{variant}.json"):
            if index.is_file():
                return tuple(folder / file for file in _shards(index))
    if any(folder.glob("*.bin")):
        raise CheckpointError(
            f"{folder} holds its weights only as a pickle, which can run code when it is loaded; "
            f"if you trust it, say so with --allow-pickle (use_safetensors=False in Python)"
        )
    wanted = f"{_STEMS[0]}{f'.{variant}' if variant else ''}.safetensors"
    raise CheckpointError(f"{folder} holds no {wanted}; choose another --variant or a complete checkpoint")


def _shards(index: Path) -> list[str]:
    """The files that an index lists, all of them beside it."""
    try:
        files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{index} is no index of shards ({type(error).__name__}); complete the checkpoint"
        ) from error
    for file in files:
        if not isinstance(file, str) or Path(file).name != file:
            raise CheckpointError(f"{index} lists {file!r}, which is no file beside it; complete the checkpoint")
    return files


def read_config(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The class, of diffusers or transformers, and the config of a model folder.

    Raises:
        CheckpointError: no config of such a model.
        UnsupportedError: a class of no family.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
        kind = config.get("_class_name") or config["architectures"][0]
    except (OSError, json.JSONDecodeError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is no config of a model of diffusers or transformers: {error}") from error
    return family_of(kind).model_class(), config
