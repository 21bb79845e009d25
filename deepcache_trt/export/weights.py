"""Weights by reference: a graph's initializers point into safetensors files.

A safetensors file is raw little-endian tensors behind an 8-byte header length and a JSON header that gives offsets,
which is what ONNX external data refers to: (file, offset, length).
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from safetensors.torch import save_file

from deepcache_trt.errors import CheckpointError
from deepcache_trt.export.tidy import UNBOUND
from deepcache_trt.models.checkpoint.weight_files import check_safetensors

# safetensors' names of dtypes, and those of ONNX.
_DTYPES = {
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F64": "float64",
    "I64": "int64",
    "I8": "int8",
    "F8_E4M3": "float8_e4m3fn",
}
ONNX_DTYPES: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.BFLOAT16: "bfloat16",
    onnx.TensorProto.INT64: "int64",
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.FLOAT8E4M3FN: "float8_e4m3fn",
}

# What early checkpoints call the attention of a VAE or a UNet2DModel; diffusers renames it as it loads them.
_EARLY_ATTENTION = re.compile(r"(.+\.attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)")
_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

# What early transformers saved and no state dict has any more.
_LEFTOVER = "text_model.embeddings.position_ids"

_SHARD_BYTES = 1 << 30

# Names the recipe of `seeded`; change it when the recipe changes, so that stored weights are not taken for new ones.
_RECIPE = "N(0, 1/fan_in)"


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Where one tensor lies."""

    file: Path
    offset: int
    length: int
    dtype: str
    shape: tuple[int, ...]

    def tensor(self) -> torch.Tensor:
        """The tensor, mapped from the file and read when it is used."""
        dtype = getattr(torch, self.dtype)
        if not self.length:
            return torch.empty(self.shape, dtype=dtype)
        data = np.memmap(self.file, dtype=np.uint8, mode="c", offset=self.offset, shape=(self.length,))
        if self.offset % dtype.itemsize:
            return torch.from_numpy(data.copy()).view(dtype).reshape(self.shape)
        return torch.from_numpy(data).view(dtype).reshape(self.shape)


def locate(files: Iterable[Path]) -> dict[str, Stored]:
    """Read the headers of a checkpoint's safetensors files: where each tensor of the state dict lies.

    Raises:
        CheckpointError: a file that is no safetensors file, or is cut short.
    """
    return {name: stored for file in files for name, stored in _read_header(file)}


def _read_header(file: Path) -> Iterator[tuple[str, Stored]]:
    try:
        check_safetensors(file)
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
        for name, entry in header.items():
            if name in ("__metadata__", _LEFTOVER):
                continue
            if entry["dtype"] not in _DTYPES:
                raise ValueError(f"{name} is in {entry['dtype']}, and weights are in {', '.join(_DTYPES)}")
            begin, end = entry["data_offsets"]
            yield (
                _name_in_state_dict(name),
                Stored(
                    file=file,
                    offset=8 + length + begin,
                    length=end - begin,
                    dtype=_DTYPES[entry["dtype"]],
                    shape=tuple(entry["shape"]),
                ),
            )
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is no usable safetensors file: {error}; download or save it again") from error


def _name_in_state_dict(name: str) -> str:
    early = _EARLY_ATTENTION.fullmatch(name)
    return f"{early[1]}.{_ATTENTION[early[2]]}.{early[3]}" if early else name


def under_names(stored: Mapping[str, Stored], names: Iterable[str]) -> dict[str, Stored]:
    """The stored tensors under the names that a model has for them.

    transformers moves the layers of a model into a module of their own, or out of it, and loads the checkpoints from
    before all the same: its CLIPTextModel has "encoder.…" for what files call "text_model.encoder.…". So names that are
    not in the files are looked for with one prefix more, or one less.

    Args:
        stored: the tensors under the names of their files.
        names: what a model calls its weights, or those of them that a graph reads.

    Returns:
        All of `stored`; under the names of the files, unless one prefix alone accounts for each name that they lack.
    """
    wanted = set(names)
    missing, spare = wanted - stored.keys(), stored.keys() - wanted
    if not missing:
        return dict(stored)
    one = min(missing)
    added = [name.removesuffix(one) for name in spare if name.endswith(f".{one}")]
    dropped = [one.removesuffix(name) for name in spare if one.endswith(f".{name}")]
    moves = [
        *({f"{prefix}{name}": name for name in missing} for prefix in added),
        *({name.removeprefix(prefix): name for name in missing if name.startswith(prefix)} for prefix in dropped),
    ]
    fitting = [move for move in moves if set(move.values()) == missing and move.keys() <= spare]
    move = fitting[0] if len(fitting) == 1 else {}
    return {move.get(name, name): tensor for name, tensor in stored.items()}


def fingerprint(names: Iterable[str], read: Callable[[str], torch.Tensor]) -> str:
    """A hash of names, dtypes, shapes and values, the same for a checkpoint on disk and a live state dict."""

    def digest(name: str) -> bytes:
        tensor = read(name).detach().cpu().contiguous()
        digest = hashlib.sha256(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
        return digest.digest()

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:  # hashlib lets go of the interpreter lock
        return hashlib.sha256(b"".join(pool.map(digest, sorted(names)))).hexdigest()


def write(tensors: Iterable[tuple[str, torch.Tensor]], folder: Path) -> list[Path]:
    """Write tensors as safetensors shards of about a gigabyte, holding no more than one shard in memory."""
    files: list[Path] = []
    shard: dict[str, torch.Tensor] = {}
    size = 0

    def flush() -> None:
        files.append(folder / f"weights-{len(files):02d}.safetensors")
        save_file(shard, files[-1])
        shard.clear()

    for name, tensor in tensors:
        shard[name] = tensor.detach().cpu().contiguous().clone()
        size += tensor.numel() * tensor.element_size()
        if size >= _SHARD_BYTES:
            flush()
            size = 0
    if shard:
        flush()
    return files


def link(files: Sequence[Path], folder: Path) -> list[Path]:
    """Hard-link checkpoint files into `folder`, or copy them where the file system cannot."""
    linked = []
    for i, file in enumerate(files):
        target = folder / f"weights-{i:02d}.safetensors"
        try:
            os.link(file.resolve(), target)
        except OSError:
            shutil.copyfile(file, target)
        linked.append(target)
    return linked


def bind(graph: onnx.ModelProto, weights: Mapping[str, Stored]) -> None:
    """Point every unbound initializer of `graph` at its tensor, in place; the files lie beside the graph.

    Raises:
        CheckpointError: a weight that is missing, or has another shape or dtype.
    """
    unbound = [initializer for initializer in graph.graph.initializer if _is_unbound(initializer)]
    # The graph can be older or newer than the files beside it, and so are the names in it.
    weights = under_names(weights, (initializer.name for initializer in unbound))
    for initializer in unbound:
        stored = weights.get(initializer.name)
        wanted = (ONNX_DTYPES[initializer.data_type], tuple(initializer.dims))
        if stored is None:
            raise CheckpointError(f"the checkpoint has no tensor {initializer.name!r}; is it of another architecture?")
        if (stored.dtype, stored.shape) != wanted:
            raise CheckpointError(
                f"{initializer.name!r} is {stored.dtype}{list(stored.shape)} in the checkpoint, "
                f"the graph wants {wanted[0]}{list(wanted[1])}"
            )
        del initializer.external_data[:]
        for key, value in (("location", stored.file.name), ("offset", stored.offset), ("length", stored.length)):
            initializer.external_data.add(key=key, value=str(value))


def _is_unbound(initializer: onnx.TensorProto) -> bool:
    if initializer.data_location != onnx.TensorProto.EXTERNAL:
        return False
    entries = {entry.key: entry.value for entry in initializer.external_data}
    return bool(entries["location"] == UNBOUND)


def save_bound(graph: onnx.ModelProto, weights: Mapping[str, Stored], path: Path) -> None:
    """Write `graph` to `path` with its weights pointing at files in the same folder."""
    bind(graph, weights)
    onnx.save(graph, path)


def seeded(
    shapes: Mapping[str, torch.Size], *, dtype: str, seed: int, device: str = "cpu"
) -> Iterator[tuple[str, torch.Tensor]]:
    """Random weights of a sane scale for a state dict of these shapes: the same for the same seed and device.

    Matrices and kernels are N(0, 1/fan_in), gains one, biases zero, so that activations keep their size in half
    precision however deep the model is.
    """
    generator = torch.Generator(device).manual_seed(seed)
    for name, shape in shapes.items():
        if len(shape) >= 2:
            tensor = torch.randn(shape, generator=generator, device=device) * shape[1:].numel() ** -0.5
        else:
            tensor = (torch.ones if name.endswith("weight") else torch.zeros)(shape, device=device)
        yield name, tensor.to(getattr(torch, dtype))


def fingerprint_of_seed(shapes: Mapping[str, torch.Size], *, dtype: str, seed: int) -> str:
    """Stands for the hash of `seeded` weights without drawing them."""
    text = json.dumps([_RECIPE, dtype, seed, {name: list(shape) for name, shape in shapes.items()}], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
