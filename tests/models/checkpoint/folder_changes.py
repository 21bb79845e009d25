"""What others can write into a model's folder."""

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepcache_trt.models.catalogue import CATALOGUE

Change = Callable[[Path], object]

DIGITS = Path(str(CATALOGUE["digits"].source))
UNET, VAE = "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"

# Code that leaves a mark where it runs, in the environment, which no process but this one has.
MARK = "DEEPCACHE_TRT_TEST_CODE_HAS_RUN"
CODE = f"import os\nos.environ[{MARK!r}] = '1'\nclass Evil: pass\n"


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (CODE,)


def write(file: Path, content: str | bytes) -> None:
    file.unlink(missing_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())


def said(name: str, **changes: Any) -> Change:
    """A JSON file that says something else."""

    def change(folder: Path) -> None:
        write(folder / name, json.dumps({**json.loads((folder / name).read_text()), **changes}))

    return change


def both(*changes: Change) -> Change:
    def change(folder: Path) -> None:
        for each in changes:
            each(folder)

    return change


def content(name: str, content: str | bytes) -> Change:
    return lambda folder: write(folder / name, content)


def instead(name: str, make: Change) -> Change:
    """Something else in a file's place."""

    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def link_to(target: str) -> Change:
    return lambda file: file.symlink_to(target)


def header(name: str, change: Callable[[dict[str, Any]], object]) -> Change:
    """A safetensors file with another header and the same numbers."""

    def rewrite(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        length = struct.unpack("<Q", whole[:8])[0]
        entries = json.loads(whole[8 : 8 + length])
        entries.pop("__metadata__", None)
        change(entries)
        text = json.dumps(entries).encode()
        write(folder / name, struct.pack("<Q", len(text)) + text + whole[8 + length :])

    return rewrite


def first(entries: dict[str, Any], **changes: Any) -> None:
    next(iter(entries.values())).update(changes)


def sharded(name: str, file: object) -> Change:
    """A checkpoint of shards, of which the index lists this one."""

    def change(folder: Path) -> None:
        (folder / name).rename(folder / name.replace(".safetensors", "-1.safetensors"))
        write(folder / f"{name}.index.json", json.dumps({"weight_map": {"conv_in.weight": file}}))

    return change


def with_code(*changes: Change) -> Change:
    """Code beside what is changed, where a loader could look for it."""
    names = ("pipeline.py", "evil.py", "unet/evil.py", "unet/modeling.py", "text_encoder/modeling.py")
    return both(*(content(name, CODE) for name in names), *changes)


def pickles(folder: Path) -> None:
    (folder / UNET).unlink()
    for name in ("diffusion_pytorch_model.bin", "pytorch_model.bin", "model.ckpt"):
        write(folder / "unet" / name, pickle.dumps(Evil()))


def sparse(file: Path) -> None:
    file.touch()
    os.truncate(file, 1 << 30)
