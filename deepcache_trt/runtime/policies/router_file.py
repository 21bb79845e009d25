"""Router files: what was learnt, as safetensors with one tensor, from which a threshold makes a plan.

    logits       [cached calls, taps] float32; row j is of call 2j + 1, the second one of pair j
    metadata     "format", and as JSON "taps", the names of the columns, and "about": what it was trained on, and how

Two layouts of Learning-to-Cache's own code are read too, as torch.save writes them: a state dict with the entries
"0.prob" … "{T-1}.prob" of T steps, and a training checkpoint that has it as "routers". Entry i has 2 · depth logits,
those of the attention and the MLP of each block in turn, which is the order of a DiT's taps. i counts as timesteps do,
up from the last call: call c of T has entry T - 1 - c. So T is even, and the odd entries are of full calls, and were
never trained. The files of U-ViT have the same form and count otherwise; there is no U-ViT here.
"""

import argparse
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcache_trt.documents import parsed
from deepcache_trt.engines.store import write_whole
from deepcache_trt.errors import CheckpointError, DeepCacheError, first_line

IN_FOLDER = "router.safetensors"  # beside the parts of a model
SAFE = ".safetensors"

_FORMAT = "deepcache-trt router 1"
_CURE = "give a file that deepcache-trt train-router wrote, or a router of Learning-to-Cache (.pt)"
_ENTRY = re.compile(r"(?:.*\.)?(\d+)\.prob")


@dataclass(frozen=True, kw_only=True, eq=False)
class RouterFile:
    """A trained router.

    Attributes:
        logits: [cached calls, taps] float32; their sigmoids are the scores.
        taps: the names of the columns; none where a file does not say them.
        about: what it was trained on, and how; information only.
    """

    logits: NDArray[np.float32]
    taps: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.logits.ndim != 2 or not self.logits.size:
            raise CheckpointError(f"logits of shape {list(self.logits.shape)} are none; they are [cached calls, taps]")
        if self.taps and len(self.taps) != self.logits.shape[1]:
            raise CheckpointError(f"logits for {self.logits.shape[1]} taps have {len(self.taps)} names of taps")
        if not np.isfinite(self.logits).all():
            count = int((~np.isfinite(self.logits)).sum())
            raise CheckpointError(f"{count} of {self.logits.size} logits are not finite; the training has diverged")


def read_router(path: Path | str) -> RouterFile:
    """Read a router; no code in a file is ever run.

    Args:
        path: of our own, which ends in .safetensors, one of Learning-to-Cache, or the folder of a model that has
            `IN_FOLDER` in it.

    Raises:
        CheckpointError: no such file, or no router; the message names the file and the cure.
    """
    path = Path(path)
    if path.is_dir():
        path = path / IN_FOLDER
    if not path.is_file():
        raise CheckpointError(f"there is no router {path}; {_CURE}")
    try:
        return _read_own(path) if path.suffix == SAFE else _read_published(path)
    except CheckpointError as error:
        raise CheckpointError(f"router {path}: {error}; {_CURE}") from error


def write_router(path: Path, router: RouterFile) -> None:
    """Write a router, whole or not at all.

    Raises:
        DeepCacheError: it cannot be written.
    """
    from safetensors.numpy import save

    metadata = {"format": _FORMAT, "taps": json.dumps(router.taps), "about": json.dumps(dict(router.about))}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, save({"logits": router.logits}, metadata))
    except OSError as error:
        raise DeepCacheError(f"cannot write {path}: {error.strerror}; choose another file") from error


def _read_own(path: Path) -> RouterFile:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata, names = file.metadata() or {}, list(file.keys())
            if metadata.get("format") != _FORMAT or names != ["logits"]:
                raise CheckpointError(f"it is of no such format ({metadata.get('format')}, with {', '.join(names)})")
            logits = file.get_tensor("logits")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(first_line(error)) from error
    try:
        taps, about = parsed(metadata["taps"]), parsed(metadata["about"])
        if not isinstance(about, dict) or not isinstance(taps, list) or not all(isinstance(each, str) for each in taps):
            raise ValueError("taps are names, and about is an object")
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"its metadata are damaged ({first_line(error)})") from error
    return RouterFile(logits=logits.astype(np.float32), taps=tuple(taps), about=about)


def _read_published(path: Path) -> RouterFile:
    import torch

    # Published checkpoints have the options of their training beside the router, in a class that only holds them.
    with torch.serialization.safe_globals([argparse.Namespace]):
        try:
            found: Any = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever the unpickler meets in a file that it is not made for
            unsafe = re.search(r"GLOBAL (\S+)", str(error))
            reason = f"it holds {unsafe[1]}, which would run code" if unsafe else "it is no file of torch.save"
            raise CheckpointError(f"{reason}, and only tensors are read") from error
    if isinstance(found, Mapping) and isinstance(found.get("routers"), Mapping):
        found = found["routers"]
    if not isinstance(found, Mapping):
        raise CheckpointError(f"it holds a {type(found).__name__}, no entries such as 0.prob")
    entries = {int(name[1]): value for key, value in found.items() if (name := _ENTRY.fullmatch(str(key)))}
    return RouterFile(logits=_rows(entries))


def _rows(entries: Mapping[int, Any]) -> NDArray[np.float32]:
    """[cached calls, taps]: the entries of cached calls, in the order of those."""
    import torch

    count = len(entries)
    if not count or set(entries) != set(range(count)):
        raise CheckpointError(f"it has {count} entries such as 0.prob, which do not count up from 0 without a gap")
    if count % 2:
        raise CheckpointError(f"it has {count} entries, an odd number, and calls come in pairs")
    cached = [entries[i] for i in range(count - 2, -1, -2)]
    shapes = {tuple(entry.shape) if isinstance(entry, torch.Tensor) else None for entry in cached}
    if len(shapes) > 1 or len(next(iter(shapes)) or ()) != 1:
        raise CheckpointError(
            f"its entries are of shapes {sorted(map(str, shapes))}, and they are vectors of one length"
        )
    return torch.stack(cached).float().numpy()
