"""The torch weights of a model whose engines hold them too: dropped, and loaded again when anyone uses them.

A dropped weight is a meta tensor in the place of the real one, as the same Python object. It tells its shape, its dtype
and that it is on "meta". Whatever else is done with it, be it a state dict, a cast, a LoRA that is added to it or a
call of the model, first loads all that was dropped with it from the store.
"""

import copy
import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch.utils import swap_tensors
from torch.utils._pytree import tree_leaves

from deepcache_trt.engines.store import Artefact, Store
from deepcache_trt.errors import StoreError, UnsupportedError
from deepcache_trt.export import weights
from deepcache_trt.export.digest import digests

# What a dropped weight knows without its values.
_KNOWN = {
    *(
        getattr(torch.Tensor, name).__get__
        for name in (
            *("shape", "dtype", "device", "is_meta", "layout", "ndim", "nbytes", "itemsize"),
            *("requires_grad", "grad", "is_leaf", "is_sparse", "is_quantized", "_version"),
        )
    ),
    *(torch.Tensor.numel, torch.Tensor.nelement, torch.Tensor.size, torch.Tensor.dim, torch.Tensor.stride),
    *(torch.Tensor.element_size, torch.Tensor.is_floating_point, torch.Tensor.is_complex),
    *(torch.numel, torch.is_floating_point, torch.is_complex),
}

# Methods of models that do something else where the weights are on "meta" before they use them.
_ASK_FIRST = ("add_adapter", "load_lora_adapter", "load_adapter", "load_state_dict")


class DroppedWeight(torch.nn.Parameter):
    """A meta tensor that becomes its real self when it is used."""

    origin: "_Origin"
    home: torch.device  # where it was
    digest: int  # of the real one, see `material.version_of`
    attributes: dict[str, Any]  # what the real one has beside its values

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _KNOWN:
            for leaf in tree_leaves((args, kwargs)):
                if isinstance(leaf, DroppedWeight):
                    leaf.origin.load()
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    def __deepcopy__(self, memo: Any) -> Any:
        self.origin.load()
        return copy.deepcopy(self, memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        self.origin.load()
        return self.__reduce_ex__(protocol)


class _Origin:
    """Where the weights that were dropped from a model together are loaded from."""

    def __init__(self, model: Any, store: Store, kept: Artefact) -> None:
        self._model = model
        self._store = store
        self._kept = kept
        self._dropped: list[tuple[str, torch.nn.Parameter]] = []

    def drop(self, module: str) -> None:
        """Free the weights of the model's `module`; those that someone else holds by more than their name stay."""
        prefix = f"{module}." if module else ""
        held = [
            (name, weight)
            for name, weight in self._model.named_parameters()
            if name.startswith(prefix) and type(weight) is torch.nn.Parameter
        ]
        if not held:  # at most images they are dropped already
            return
        stored = _stored_in(self._kept, held)
        for (name, weight), digest in zip(held, digests([weight for _, weight in held]), strict=True):
            is_stored = name in stored and _describe(weight) == (stored[name].dtype, stored[name].shape)
            if is_stored and self._drop_one(weight, digest):
                self._dropped.append((name, weight))
        if self._dropped and not isinstance(self._model, _DroppedModel):
            whole: Any = type(self._model)
            self._model.__class__ = _dropped_class(whole)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # engines have other allocators than torch

    def load(self) -> None:
        """Load them to where they were.

        Raises:
            StoreError: the store has them no more.
        """
        if not self._dropped:
            return
        kept = self._store.find(self._kept.kind, self._kept.key)
        if kept is None:
            raise StoreError(
                f"the torch weights of {self._kept.about['model']} {self._kept.about['component']} were dropped, and "
                f"{self._kept.folder} has them no more; load the pipeline again, with keep_torch_weights=True if its "
                f"store may be deleted meanwhile"
            )
        stored = _stored_in(kept, self._dropped)
        with _own_ways():
            while self._dropped:
                name, weight = self._dropped[-1]
                _load_one(weight, stored[name])
                self._dropped.pop()
        if isinstance(self._model, _DroppedModel) and not is_dropped(self._model):
            self._model.__class__ = cast(Any, type(self._model).__base__)

    def _drop_one(self, weight: torch.nn.Parameter, digest: int) -> bool:
        with _own_ways():
            dropped = DroppedWeight(torch.empty_like(weight, device="meta"), requires_grad=weight.requires_grad)
            dropped.origin, dropped.home, dropped.digest = self, weight.device, digest
            dropped.attributes = dict(vars(weight))
            try:
                swap_tensors(weight, dropped)
            except RuntimeError:  # a weak reference, or a graph of autograd
                return False
        return True


def _stored_in(kept: Artefact, named: Iterable[tuple[str, torch.nn.Parameter]]) -> dict[str, weights.Stored]:
    found = weights.locate(sorted(kept.folder.glob("*.safetensors")))
    return weights.under_names(found, (name for name, _ in named))


def _describe(weight: torch.nn.Parameter) -> tuple[str, tuple[int, ...]]:
    return str(weight.dtype).removeprefix("torch."), tuple(weight.shape)


def _load_one(weight: Any, stored: weights.Stored) -> None:
    values = torch.empty_strided(weight.size(), weight.stride(), dtype=weight.dtype, device=weight.home)
    values.copy_(stored.tensor())
    loaded = torch.nn.Parameter(values, requires_grad=weight.requires_grad)
    vars(loaded).update(weight.attributes)
    swap_tensors(weight, loaded)


@contextmanager
def _own_ways() -> Iterator[None]:
    """Tensors that are made inside can be written to afterwards; dropped ones are nothing special."""
    with torch.inference_mode(False), torch.no_grad(), torch._C.DisableTorchFunctionSubclass():
        yield


class _SameClass(type):
    """diffusers compares the classes of components, and a model is of the same class when it has no weights."""

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is cls.__base__

    def __hash__(cls) -> int:
        return hash(cls.__base__)


class _DroppedModel:
    """Marks the classes of `_dropped_class`."""


@functools.cache
def _dropped_class(whole: Any) -> Any:
    """The class of a model as long as its weights are dropped: the model is still where they were."""

    def device(model: Any) -> torch.device:
        return next(weight.home for weight in model.parameters() if isinstance(weight, DroppedWeight))

    def reduce(model: Any, protocol: Any) -> Any:
        load(model)
        return model.__reduce_ex__(protocol)

    namespace = {
        "__module__": whole.__module__,
        "__qualname__": whole.__qualname__,
        "__doc__": whole.__doc__,
        "__reduce_ex__": reduce,
        "device": property(device),
        **{name: _whole_first(getattr(whole, name)) for name in _ASK_FIRST if hasattr(whole, name)},
    }
    return _SameClass(whole.__name__, (whole, _DroppedModel), namespace)


def _whole_first(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(model: Any, *args: Any, **kwargs: Any) -> Any:
        load(model)
        return method(model, *args, **kwargs)

    return call


def drop(model: Any, module: str, store: Store, kept: Artefact) -> None:
    """Drop the weights of a model, which `kept` has all of.

    Args:
        model: of diffusers or transformers, without adapters.
        module: the part of it whose weights are dropped; "": all of it. Buffers stay.
        store: which has `kept`.
        kept: the model's weights as they are now.
    """
    _Origin(model, store, kept).drop(module)


def drop_beside(model: Any, module: str, store: Store, kept: Artefact) -> None:
    """Drop every other child of the model than `module`, each to be loaded by itself.

    Of a VAE whose decoder is an engine, most pipelines use the layer in front of it and nothing else; the file that it
    was loaded from stays in memory as long as any weight of it does.
    """
    for name, _ in model.named_children():
        if module and name != module.split(".")[0]:
            drop(model, name, store, kept)


def load(model: Any) -> None:
    """Load whatever was dropped from the model; nothing happens where nothing was."""
    for weight in list(model.parameters()):
        if isinstance(weight, DroppedWeight):
            weight.origin.load()


def is_dropped(model: Any) -> bool:
    """Whether weights of the model are dropped."""
    return any(isinstance(weight, DroppedWeight) for weight in model.parameters())


def may_be_offloaded(model: Any) -> bool:
    """Whether the model or what it is directly made of has the marks of those who move weights; tells at once."""
    return any(
        not vars(module).keys().isdisjoint(("_hf_hook", "_diffusers_hook")) for module in (model, *model.children())
    )


def check_not_offloaded(model: Any, part: str) -> None:
    """Raise UnsupportedError where hooks of accelerate or diffusers move the model's weights to and fro."""
    from diffusers.hooks.group_offloading import _is_group_offload_enabled

    kind, cure = "", ""
    if any(hasattr(module, "_hf_hook") for module in model.modules()):
        kind = "hooks of accelerate (enable_model_cpu_offload, enable_sequential_cpu_offload, device_map)"
        cure = "call remove_all_hooks() of the pipeline on which they were set"
    elif _is_group_offload_enabled(model):
        kind, cure = "group offload", "load the model without it"
    if kind:
        raise UnsupportedError(
            f"the weights of {part} are moved by {kind}, which engines know nothing of; {cure}. {INSTEAD}"
        )


INSTEAD = (
    "To save memory, drop the torch weights that engines hold with keep_torch_weights=False, or keep components off "
    "the engines: name the others in components=(…)"
)
