"""A live model as material for engines: what it is now, what its adapters make of it, what was dropped of it."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

import torch

from deepcache_trt.builder.component import Component, from_model
from deepcache_trt.builder.graphs import weights_artefact
from deepcache_trt.builder.target import Target
from deepcache_trt.export.digest import Digests
from deepcache_trt.foreign import Model
from deepcache_trt.models.architecture import CallForm
from deepcache_trt.models.calls import check_untouched
from deepcache_trt.models.fresh import dtype_of
from deepcache_trt.models.structure import KnownStructure, Looked
from deepcache_trt.pipelines.adapters import adapter_state, base_weights, has_adapters, plain_state
from deepcache_trt.pipelines.torch_weights import DroppedWeight, check_not_offloaded, drop, drop_beside, is_dropped
from deepcache_trt.progress import Progress

_log = logging.getLogger(__name__)

Identity = tuple[Any, ...]

_version = attrgetter("_version")


class Material:
    """What engines of one model of a pipeline, and of its copies, are made of."""

    def __init__(self, name: str, part: str, *, refit: bool, keep_torch_weights: bool) -> None:
        """Nothing is read yet.

        Args:
            name: what messages call the pipeline's model.
            part: its place in the pipeline.
            refit: as in `EngineOptions`.
            keep_torch_weights: as in `EngineOptions`.
        """
        self._name, self._part = name, part
        self._refit, self._keep_torch_weights = refit, keep_torch_weights
        self._structure = KnownStructure(self._check)
        self._base_weights: dict[str, torch.Tensor] = {}  # what `adapters.base_weights` returned last
        self._dropped: tuple[Identity, Component] | None = None  # what the weights are, and were made of, when dropped

    def look(self, model: Model) -> Looked:
        """The model as it is now; raises where engines cannot follow, see `structure_of`."""
        return self._structure.of(model)

    def forget(self) -> None:
        """Hold nothing of the model; it is looked at anew."""
        self._structure = KnownStructure(self._check)
        self._base_weights = {}

    def _check(self, model: Model) -> None:
        check_not_offloaded(model, self._part)
        check_untouched(model)

    def marks(self, model: Model, form: CallForm, looked: Looked) -> Identity:
        """What tells within a millisecond that `identity` may have changed, unless weights were written to unseen."""
        return *_about(model, form, looked), marks_of(model, looked.snapshot.tensors)

    def version(self, model: Model, looked: Looked) -> "Version":
        """Begin to read the weights."""
        return Version(model, looked.snapshot.tensors)

    def identity(self, model: Model, form: CallForm, looked: Looked, version: "Version | None" = None) -> Identity:
        """Changes whenever other engines are needed: with the model, its config, precision, structure or weights.

        Args:
            model: which.
            form: of its call.
            looked: what `look` has just returned for it.
            version: what has been begun for it; None: its weights are read now.
        """
        return *_about(model, form, looked), (version or self.version(model, looked)).result()

    def component(self, model: Model, form: CallForm) -> Component:
        """The model as material for a build, with the adapters that count now merged into its weights."""
        if (
            self._dropped is not None
            and is_dropped(model)
            and self._dropped[0] == self.identity(model, form, self.look(model))
        ):
            return self._dropped[1]  # a hash of the weights would load them
        live = partial(from_model, model, name=self._name, part=self._part, form=form)
        if not has_adapters(model):
            return live()
        self._base_weights = weights = base_weights(model, self._base_weights)
        base = live(state=plain_state(model, weights, adapters=False)) if self._refit else None
        return live(state=plain_state(model, weights, adapters=True), adapters=True, base=base)

    def dropping(
        self, model: Model, component: Component, target: Target, progress: Progress
    ) -> Callable[[], None] | None:
        """What drops the model's torch weights; None where they stay."""
        if self._keep_torch_weights:
            return None
        if target.backend.runs_model or has_adapters(model):
            runs_it = f"'{target.backend}' runs the model itself"
            reason = "there are adapters on them" if has_adapters(model) else runs_it
            _log.info("the torch weights of %s stay in memory: %s", component.title, reason)
            return None
        kept = weights_artefact(component, target.store, progress)
        drop_beside(model, component.architecture.module, target.store, kept)
        return partial(drop, model, component.architecture.module, target.store, kept)

    def remember_dropped(self, identity: Identity, made_of: Component) -> None:
        """The torch weights of a model of this identity, as it was made into engines, are dropped."""
        self._dropped = (identity, made_of)


def _about(model: Model, form: CallForm, looked: Looked) -> Identity:
    return id(model), looked.config, dtype_of(model), form, looked.structure


def marks_of(model: Any, tensors: Sequence[torch.Tensor]) -> tuple[Any, ...]:
    """What changes at once whenever a weight or a buffer is moved, or written to in a way that torch counts.

    Arguments as for `Version`, which tells of every way; a model's `Snapshot` tells of other tensors in their place.
    """
    # torch's parameters answer isinstance in their own, slow way, and these must not be loaded by being asked.
    held = [tensor for tensor in tensors if type(tensor) is not DroppedWeight]
    dropped = tuple(tensor.digest for tensor in tensors if type(tensor) is DroppedWeight)
    try:
        versions: tuple[int, ...] = tuple(map(_version, held))
    except RuntimeError:  # torch counts no writes to tensors of its inference mode
        versions = ()
    return adapter_state(model), dropped, versions, tuple(map(torch.Tensor.data_ptr, held))


def arrange(model: Any) -> None:
    """Lay the weights of convolutions out as a GPU's kernels read them, channels last; their values stay.

    Else cuDNN rearranges them anew in every call of eager PyTorch.
    """
    if any(
        weight.ndim == 4 and not weight.is_contiguous(memory_format=torch.channels_last)
        for weight in model.parameters()
    ):
        model.to(memory_format=torch.channels_last)


def places_of(tensors: Sequence[torch.Tensor]) -> tuple[Any, ...]:
    """Where weights and buffers lie and in which layout, for engines that read them there."""
    return tuple((tensor.data_ptr(), tensor.stride()) for tensor in tensors)


class Version:
    """Changes whenever a weight or a buffer has other values, but not when weights are dropped or loaded.

    What takes long, to read all of them, goes on beside other work until `result` is asked for.
    """

    def __init__(self, model: Any, tensors: Sequence[torch.Tensor]) -> None:
        """Begin.

        Args:
            model: whose adapters count too.
            tensors: those of its weights and buffers that count.
        """
        self._adapters = adapter_state(model)
        # torch's parameters answer isinstance in their own, slow way.
        self._dropped = [tensor.digest if type(tensor) is DroppedWeight else None for tensor in tensors]
        held = [tensor for tensor, digest in zip(tensors, self._dropped, strict=True) if digest is None]
        self._digests = Digests(held)

    def result(self) -> tuple[Any, ...]:
        """Wait for it."""
        known = iter(self._digests.result())
        return self._adapters, tuple(next(known) if digest is None else digest for digest in self._dropped)

    def wait(self) -> None:
        """Wait until nothing is read beside other work any more."""
        self._digests.wait()


def version_of(model: Any, tensors: Sequence[torch.Tensor]) -> tuple[Any, ...]:
    """See `Version`."""
    return Version(model, tensors).result()
