"""A component of a pipeline as material for a build: what it is, and where its weights come from."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from deepcache_trt.builder.quantized.quantizing import Quantizing
from deepcache_trt.errors import CheckpointError
from deepcache_trt.export import weights
from deepcache_trt.models.architecture import AS_CONFIGURED, Architecture, CallForm
from deepcache_trt.models.checkpoint.model_class import class_and_config, described
from deepcache_trt.models.checkpoint.weight_files import checkpoint_files
from deepcache_trt.models.copies import meta_copy
from deepcache_trt.models.fresh import config_of, dtype_of, empty_model, fake_model
from deepcache_trt.models.registry import architecture_of, family_of, part_dtype
from deepcache_trt.models.structure import changed_buffers, structure_of

# The names under which pipelines keep their denoiser.
DENOISERS = ("unet", "transformer")

# What configs say about other things than the computation.
_NOT_IN_THE_GRAPH = {
    *("sample_size", "scaling_factor", "shift_factor", "latents_mean", "latents_std", "force_upcast"),
    *("architectures", "dtype", "torch_dtype", "transformers_version"),
}


@dataclass(frozen=True, kw_only=True)
class Component:
    """One model of a pipeline, such as its U-Net, in one precision.

    Attributes:
        name: of the pipeline's model, as the user gave it.
        part: the component's name in the pipeline, such as "unet".
        model_class: its class in diffusers or transformers.
        config: its complete config.
        dtype: of the weights, "float32", "float16" or "bfloat16".
        architecture: inputs, outputs and taps.
        parameters: how many numbers its weights hold.
        fingerprint: a hash of the weights.
        files: safetensors files that hold exactly these weights, to be linked; None: write `tensors` instead.
        tensors: the state dict, one tensor at a time.
        module: the real model with these weights.
        adapters: whether adapters are merged into these weights, which others will follow.
        base: the same component without them, where it is wanted.
        form: how it is called, if that is not how every model of its config can be.
        structure: what the live model is beside its config, see `models.structure`.
        live: the model that has that structure; None: every model of the config has.
        quantizing: which of its layers compute in 8 bits, and with which scales; None: all are in `dtype`.
    """

    name: str
    part: str
    model_class: Any
    config: Mapping[str, Any]
    dtype: str
    architecture: Architecture
    parameters: int
    fingerprint: str
    files: tuple[Path, ...] | None
    tensors: Callable[[], Iterator[tuple[str, torch.Tensor]]]
    module: Callable[[], torch.nn.Module]
    adapters: bool = False
    base: "Component | None" = None
    form: CallForm = AS_CONFIGURED
    structure: Mapping[str, Any] = field(default_factory=dict)
    live: torch.nn.Module | None = None
    quantizing: Quantizing | None = None

    @property
    def unquantized(self) -> "Component":
        """The same model, all of it in its dtype."""
        return replace(self, quantizing=None)

    @property
    def precision_in_words(self) -> str:
        """As "float32", or "bfloat16, int8"."""
        return self.dtype if self.quantizing is None else f"{self.dtype}, {self.quantizing.precision.name}"

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"{self.name} {self.part}{f' with {self.beyond_config}' if self.beyond_config else ''}"

    @property
    def beyond_config(self) -> str:
        """What makes its graph another one than that of its config, which a command could not know; "" if nothing."""
        return self.form.in_words or ("changes of its modules" if self.structure else "")

    @property
    def weight_bytes(self) -> int:
        """What its weights take in memory."""
        return self.parameters * int(getattr(torch, self.dtype).itemsize)

    @property
    def graph_config(self) -> dict[str, Any]:
        """The part of the config that decides the graph."""
        # A U-Net takes any size; for a DiT the position table depends on it.
        unread = _NOT_IN_THE_GRAPH - ({"sample_size"} if self.architecture.fixed_size else set())
        return {k: v for k, v in self.config.items() if not k.startswith("_") and k not in unread}


def from_model(
    model: Any,
    *,
    name: str,
    part: str,
    form: CallForm = AS_CONFIGURED,
    state: Mapping[str, torch.Tensor] | None = None,
    adapters: bool = False,
    base: Component | None = None,
) -> Component:
    """A live model as it is now.

    Args:
        model: of a covered class.
        name: of the pipeline's model.
        part: its place in the pipeline.
        form: as for `architecture_of`.
        state: other weights for it than its own, as a model with adapters needs them; None: its own.
        adapters: see `Component`.
        base: see `Component`.
    """
    dtype, config = dtype_of(model), config_of(model)
    if form.frames is not None:
        config["num_frames"] = form.frames
    weights_now = model.state_dict() if state is None else state
    fingerprint = weights.fingerprint(weights_now, weights_now.__getitem__)
    buffers = changed_buffers(model)
    structure = structure_of(model) | ({"buffers": buffers} if buffers else {})

    def module() -> torch.nn.Module:
        own: torch.nn.Module = model
        if state is None:
            return own
        empty = meta_copy(model) if structure else empty_model(type(model), config)
        return _with_weights(empty, state).to(device=model.device)

    return Component(
        name=name,
        part=part,
        model_class=type(model),
        config=config,
        dtype=dtype,
        architecture=architecture_of(model, dtype=dtype, form=form),
        parameters=sum(tensor.numel() for tensor in weights_now.values()),
        fingerprint=fingerprint,
        files=_files_with(fingerprint, weights_now, Path(config.get("_name_or_path") or "")),
        tensors=lambda: iter((model.state_dict() if state is None else state).items()),
        module=module,
        adapters=adapters,
        base=base,
        form=form,
        structure=structure,
        live=model if structure else None,
    )


def _with_weights(empty: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """A model whose weights are on "meta", with the tensors of `state`."""
    empty.load_state_dict(state, assign=True)
    return empty.requires_grad_(False)


def _files_with(fingerprint: str, names: Iterable[str], folder: Path) -> tuple[Path, ...] | None:
    """The checkpoint files that a live model was loaded from, if it still holds exactly their values."""
    try:
        files = checkpoint_files(folder, variant=None)
        stored = weights.under_names(weights.locate(files), names)
    except CheckpointError:
        return None
    return files if weights.fingerprint(stored, lambda n: stored[n].tensor()) == fingerprint else None


def from_folder(folder: Path, *, name: str, dtype: str, variant: str | None = None) -> Component:
    """A component's folder as diffusers saves it (`unet/` of a pipeline); its weights are never loaded as a whole.

    Args:
        folder: holds `config.json` and safetensors files.
        name: of the pipeline's model, as the user gave it.
        dtype: the pipeline's precision, whatever that of the files.
        variant: as in diffusers, "fp16" for `….fp16.safetensors`.

    Raises:
        CheckpointError: no config, or no safetensors files.
        UnsupportedError: a class that is not covered.
    """
    files = checkpoint_files(folder, variant=variant)
    model_class, config = class_and_config(folder)
    family_of(model_class.__name__)
    own = part_dtype(config, dtype)
    with described(folder, model_class.__name__):
        fake: Any = fake_model(model_class, config, own)
        architecture = architecture_of(fake, dtype=own)
    stored = weights.under_names(weights.locate(files), fake.state_dict())
    kept = {tensor.dtype for tensor in stored.values()}

    def read(tensor_name: str) -> torch.Tensor:
        # A pipeline that is loaded in half precision and computes in float32 has rounded weights.
        return stored[tensor_name].tensor().to(getattr(torch, dtype)).to(getattr(torch, own))

    def module() -> torch.nn.Module:
        model: torch.nn.Module = model_class.from_pretrained(folder, dtype=getattr(torch, dtype), variant=variant)
        return (model if own == dtype else model.to(getattr(torch, own))).eval()

    return Component(
        name=name,
        part=folder.name,
        model_class=model_class,
        config=config_of(fake),
        dtype=own,
        architecture=architecture,
        parameters=sum(math.prod(tensor.shape) for tensor in stored.values()),
        fingerprint=weights.fingerprint(stored, read),
        files=files if kept <= {dtype} and dtype == own else None,
        tensors=lambda: ((tensor_name, read(tensor_name)) for tensor_name in stored),
        module=module,
    )


def from_architecture(
    model_class: Any,
    config: Mapping[str, Any],
    *,
    name: str,
    part: str,
    dtype: str,
    seed: int = 0,
    architecture: Architecture | None = None,
) -> Component:
    """A model of a real architecture with seeded random weights: for building and timing without a download.

    `architecture` is the model as a graph, where `architecture_of` would not describe it so.
    """
    dtype = part_dtype(config, dtype)
    fake: Any = fake_model(model_class, config, dtype)
    shapes = {tensor_name: tensor.shape for tensor_name, tensor in fake.state_dict().items()}

    def module() -> torch.nn.Module:
        return _with_weights(empty_model(model_class, config), dict(weights.seeded(shapes, dtype=dtype, seed=seed)))

    return Component(
        name=name,
        part=part,
        model_class=model_class,
        config=config_of(fake),
        dtype=dtype,
        architecture=architecture or architecture_of(fake, dtype=dtype),
        parameters=sum(shape.numel() for shape in shapes.values()),
        fingerprint=weights.fingerprint_of_seed(shapes, dtype=dtype, seed=seed),
        files=None,
        tensors=lambda: weights.seeded(shapes, dtype=dtype, seed=seed),
        module=module,
    )
