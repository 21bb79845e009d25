"""A denoiser as material for a build: what it is, and where its weights come from."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deepcache_trt.errors import CheckpointError, UnsupportedError
from deepcache_trt.export import weights
from deepcache_trt.export.trace import fake_model
from deepcache_trt.models.architectures import COVERED, Architecture, architecture_of


@dataclass(frozen=True, kw_only=True)
class Denoiser:
    """One denoiser in one precision.

    Attributes:
        name: what messages and manifests call it.
        model_class: its class in diffusers.
        config: its complete config.
        dtype: of the weights, "float32", "float16" or "bfloat16".
        architecture: inputs and taps.
        parameters: how many numbers its weights hold.
        fingerprint: a hash of the weights.
        files: safetensors files that hold exactly these weights, to be linked; None: write `tensors` instead.
        tensors: the state dict, one tensor at a time.
        module: the real model with these weights.
    """

    name: str
    model_class: Any
    config: Mapping[str, Any]
    dtype: str
    architecture: Architecture
    parameters: int
    fingerprint: str
    files: tuple[Path, ...] | None
    tensors: Callable[[], Iterator[tuple[str, torch.Tensor]]]
    module: Callable[[], torch.nn.Module]

    @property
    def graph_config(self) -> dict[str, Any]:
        """The part of the config that decides the graph."""
        # A U-Net takes any size; for a DiT the position table depends on it.
        unread = () if self.architecture.fixed_size else ("sample_size",)
        return {k: v for k, v in self.config.items() if not k.startswith("_") and k not in unread}


def from_model(model: Any, *, name: str) -> Denoiser:
    """A live diffusers model as it is now, fused adapters and all."""
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    state = model.state_dict()
    fingerprint = weights.fingerprint(state, state.__getitem__)
    return Denoiser(
        name=name,
        model_class=type(model),
        config=dict(model.config),
        dtype=dtype,
        architecture=architecture_of(model, dtype=dtype),
        parameters=sum(tensor.numel() for tensor in state.values()),
        fingerprint=fingerprint,
        files=_files_with(fingerprint, Path(model.config.get("_name_or_path") or "")),
        tensors=lambda: iter(model.state_dict().items()),
        module=lambda: model,
    )


def _files_with(fingerprint: str, folder: Path) -> tuple[Path, ...] | None:
    """The checkpoint files that a live model was loaded from, if it still holds exactly their values."""
    try:
        files = checkpoint_files(folder, variant=None)
        stored = weights.locate(files)
    except CheckpointError:
        return None
    return files if weights.fingerprint(stored, lambda n: stored[n].tensor()) == fingerprint else None


def from_folder(folder: Path, *, name: str, dtype: str, variant: str | None = None) -> Denoiser:
    """A denoiser folder as diffusers saves it (`unet/` of a pipeline); its weights are never loaded as a whole.

    Args:
        folder: holds `config.json` and safetensors files.
        name: what messages and manifests call it.
        dtype: the precision to build in, whatever that of the files.
        variant: as in diffusers, "fp16" for `….fp16.safetensors`.

    Raises:
        CheckpointError: no config, or no safetensors files.
    """
    files = checkpoint_files(folder, variant=variant)
    stored = weights.locate(files)
    kept = {tensor.dtype for tensor in stored.values()}
    model_class, config = read_config(folder)

    def read(tensor_name: str) -> torch.Tensor:
        return stored[tensor_name].tensor().to(getattr(torch, dtype))

    def module() -> torch.nn.Module:
        return model_class.from_pretrained(folder, dtype=getattr(torch, dtype), variant=variant).eval()

    fake: Any = fake_model(model_class, config, dtype)
    return Denoiser(
        name=name,
        model_class=model_class,
        config=dict(fake.config),
        dtype=dtype,
        architecture=architecture_of(fake, dtype=dtype),
        parameters=sum(math.prod(tensor.shape) for tensor in stored.values()),
        fingerprint=weights.fingerprint(stored, read),
        files=files if kept <= {dtype} else None,
        tensors=lambda: ((tensor_name, read(tensor_name)) for tensor_name in stored),
        module=module,
    )


def from_architecture(model_class: Any, config: Mapping[str, Any], *, name: str, dtype: str, seed: int = 0) -> Denoiser:
    """A model of a real architecture with seeded random weights: for building and timing without a download."""
    fake: Any = fake_model(model_class, config, dtype)
    shapes = {tensor_name: tensor.shape for tensor_name, tensor in fake.state_dict().items()}

    def module() -> torch.nn.Module:
        model = model_class.from_config(dict(config)).to(getattr(torch, dtype)).eval()
        model.load_state_dict(dict(weights.seeded(shapes, dtype=dtype, seed=seed)))
        return model

    return Denoiser(
        name=name,
        model_class=model_class,
        config=dict(fake.config),
        dtype=dtype,
        architecture=architecture_of(fake, dtype=dtype),
        parameters=sum(shape.numel() for shape in shapes.values()),
        fingerprint=weights.fingerprint_of_seed(shapes, dtype=dtype, seed=seed),
        files=None,
        tensors=lambda: weights.seeded(shapes, dtype=dtype, seed=seed),
        module=module,
    )


def checkpoint_files(folder: Path, *, variant: str | None) -> tuple[Path, ...]:
    """The safetensors files of a model folder: one, or the shards that its index lists.

    Raises:
        CheckpointError: there are none; says so where there is a pickle instead.
    """
    stem = "diffusion_pytorch_model" + (f".{variant}" if variant else "")
    single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if not index.is_file():  # diffusers has written the variant on either side
        index = folder / f"diffusion_pytorch_model.safetensors.index{f'.{variant}' if variant else ''}.json"
    if single.is_file():
        return (single,)
    if index.is_file():
        return tuple(folder / file for file in sorted(set(json.loads(index.read_text())["weight_map"].values())))
    if any(folder.glob("*.bin")):
        raise CheckpointError(
            f"{folder} holds its weights only as a pickle, which can run code when it is loaded; "
            f"if you trust it, say so with --allow-pickle (use_safetensors=False in Python)"
        )
    raise CheckpointError(f"{folder} holds no {single.name}; choose another --variant or a complete checkpoint")


def read_config(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The diffusers class and the config of a model folder."""
    import diffusers

    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
        kind = config["_class_name"]
    except (OSError, json.JSONDecodeError, KeyError) as error:
        raise CheckpointError(f"{path} is no config of a diffusers model: {error}") from error
    if kind not in COVERED:
        raise UnsupportedError(f"{kind} is not covered; covered are {', '.join(COVERED)}")
    return getattr(diffusers, kind), config
