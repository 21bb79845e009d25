"""What a checkpoint in one file is called."""

from pathlib import Path
from typing import Any

SAFE = ".safetensors"
PICKLES = (".ckpt", ".pt", ".pth", ".bin")


def is_single_file(model: Any) -> bool:
    """Whether `model` names a file of weights, here or on the hub, and no folder."""
    return str(model).endswith((SAFE, *PICKLES)) and not Path(model).is_dir()
