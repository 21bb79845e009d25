"""The files that hold a model's weights: which they are, and whether each is whole."""

import stat
from pathlib import Path

from deepcache_trt.documents import read_json
from deepcache_trt.errors import CheckpointError, first_line
from deepcache_trt.models.single_file import SAFE

INDEX_OF_SHARDS = ".index.json"

_CURE = "complete the checkpoint"

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
                return tuple(folder / file for file in shards(index))
    if any(folder.glob("*.bin")):
        raise CheckpointError(
            f"{folder} holds its weights only as a pickle, which can run code when it is loaded; "
            f"if you trust it, say so with --allow-pickle (use_safetensors=False in Python)"
        )
    wanted = f"{_STEMS[0]}{f'.{variant}' if variant else ''}.safetensors"
    raise CheckpointError(f"{folder} holds no {wanted}; choose another --variant or a complete checkpoint")


def shards(index: Path, *, allow_pickle: bool = False) -> list[str]:
    """The files that an index lists, all of them beside it.

    Raises:
        CheckpointError: it is no index, or lists a path, or a file that is no safetensors file.
    """
    try:
        files = sorted(set(read_json(index)["weight_map"].values()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is no index of shards ({first_line(error)}); {_CURE}") from error
    for file in files:
        if not isinstance(file, str) or Path(file).name != file or not file.isprintable():
            raise CheckpointError(f"{index} lists {file!r}, which is no file beside it; {_CURE}")
        if not allow_pickle and index.name.count(SAFE) and not file.endswith(SAFE):
            raise CheckpointError(f"{index} lists {file!r}, which is no {SAFE} file; {_CURE}")
    return files


def check_safetensors(file: Path) -> None:
    """Look at a file's header, with safetensors itself: that every tensor lies in the file, and beside the others.

    Raises:
        OSError: it cannot be read.
        ValueError: it is none, or cut short, or says something else than it holds.
    """
    from safetensors import SafetensorError, safe_open

    if not stat.S_ISREG(file.stat().st_mode):  # of a pipe that nobody writes to, opening has no end
        raise ValueError("it is no plain file")
    try:
        with safe_open(file, framework="np"):
            pass
    except SafetensorError as error:
        raise ValueError(first_line(error)) from error
