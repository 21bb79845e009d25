"""What a model's folder says that it is: a class of a library, and its config."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deepcache_trt.errors import CheckpointError, DeepCacheError, first_line
from deepcache_trt.models.checkpoint.folder import CONFIG, read_config
from deepcache_trt.models.registry import family_of

_CURE = "download or save it again"


def class_and_config(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The class, of diffusers or transformers, and the config of a model folder.

    Raises:
        CheckpointError: no config of such a model.
        UnsupportedError: a class of no family.
    """
    config = read_config(folder)
    kind = config.get("_class_name") or config.get("architectures")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    if not isinstance(kind, str):
        raise CheckpointError(
            f"{folder / CONFIG} names no class of a model of diffusers or transformers, but {kind!r}; {_CURE}"
        )
    return family_of(kind).model_class(), config


@contextmanager
def described(folder: Path, kind: str) -> Iterator[None]:
    """Say in one line that a config describes no model: what its library meets there may be anything."""
    try:
        yield
    except (DeepCacheError, MemoryError):
        raise
    except Exception as error:
        raise CheckpointError(
            f"{folder / CONFIG} describes no {kind} ({type(error).__name__}: {first_line(error)}); {_CURE}"
        ) from error
