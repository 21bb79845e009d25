"""A model of a live pipeline whose calls go to engines.

The real model stays registered in the pipeline; only a `forward` is replaced on the instance, for as long as it is
installed.
"""

import inspect
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch

from deepcache_trt.builder.component import Component, dtype_of, from_model
from deepcache_trt.builder.graphs import weights_artefact
from deepcache_trt.builder.open_session import SharedSession, open_session, shared_session
from deepcache_trt.builder.shapes import check_sizes
from deepcache_trt.builder.target import Target
from deepcache_trt.engines import backends
from deepcache_trt.engines.store import Store, default_root
from deepcache_trt.errors import ShapeError
from deepcache_trt.models.architecture import Architecture, CallForm
from deepcache_trt.models.calls import check_untouched, form_of, tensors_from_call
from deepcache_trt.models.processors import structure_of
from deepcache_trt.models.registry import architecture_of
from deepcache_trt.pipelines.adapters import base_weights, check_mergeable, has_adapters, plain_state
from deepcache_trt.pipelines.engine_options import EngineOptions
from deepcache_trt.pipelines.torch_weights import check_not_offloaded, drop, drop_beside, is_dropped, load, version_of
from deepcache_trt.progress import Progress, shown
from deepcache_trt.runtime.session import Session, on_device
from deepcache_trt.tensors import axis_sizes

_log = logging.getLogger(__name__)


class LiveComponent:
    """One model of a pipeline; while it is installed, its calls run on engines for its weights as they are."""

    branch = 0  # what it is built with; only a denoiser has taps to choose from

    def __init__(
        self, pipe: Any, part: str, options: EngineOptions, *, name: str | None = None, progress: Progress = shown
    ) -> None:
        """Nothing is built before the first call.

        Args:
            pipe: the pipeline.
            part: the attribute of the pipeline that holds the model, or a path from there, as "controlnet.nets.0".
            options: which engines.
            name: what messages call the pipeline's model.
            progress: told about every stage of a build.
        """
        self.part = part
        self.options = options
        self.name = str(name or pipe.config.get("_name_or_path") or type(pipe).__name__)
        self.seconds = 0.0  # spent in calls of the model
        self._pipe = pipe
        self._progress = progress
        self._installed_on: Any = None
        self._site: Any = None  # the module whose `forward` is replaced
        self._site_forward: Any = None
        self._architecture: Architecture | None = None
        self._form = CallForm()
        self._opened: SharedSession | None = None
        self._opened_with: Any = None
        self._other_seconds = 0.0  # of engines that are let go of, less what others have spent in those that are held
        self._is_checked = False
        self._base_weights: dict[str, torch.Tensor] = {}  # of layers with adapters, see `adapters.base_weights`
        self._dropped: tuple[Any, Component] | None = None  # what they are and were when they were dropped
        check_not_offloaded(self.model, part)

    @property
    def model(self) -> Any:
        """The model that the pipeline has now."""
        return attrgetter(self.part)(self._pipe)

    def install(self) -> None:
        """Send the calls of the model here until `remove`."""
        model = self.model
        if self._installed_on is model:
            return
        check_not_offloaded(model, self.part)
        self.remove()
        # Of a VAE this is the decoder, which serves whole images, slices and tiles.
        self._site = model.get_submodule(architecture_of(model, dtype=dtype_of(model)).module)
        self._site_forward = self._site.__dict__.get("forward")
        self._installed_on = model
        self._is_checked = False
        self._site.forward = self._forward

    def remove(self) -> None:
        """Give the model its own `forward` back."""
        if self._installed_on is not None:
            self._restore()
        self._installed_on = self._site = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """`install` for the length of a block; nothing of an earlier block reaches into it."""
        nested = self._installed_on is not None
        self.install()
        try:
            yield
        finally:
            if not nested:
                self.remove()

    def close(self) -> None:
        """Let go of the engines; the next call loads them again."""
        if self._opened is not None:
            self._other_seconds += self._opened.session.seconds
        self._opened = self._opened_with = None
        self._is_checked = False

    @property
    def session(self) -> Session | None:
        """What is open now; other pipelines with the same model may hold it too."""
        return self._opened.session if self._opened is not None else None

    @property
    def engine_seconds(self) -> float:
        """Spent in engines, those that are closed by now included."""
        return self._other_seconds + (self._opened.session.seconds if self._opened is not None else 0.0)

    def load_weights(self) -> None:
        """Load the model's torch weights if they were dropped."""
        load(self.model)

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        model = self._installed_on
        assert model is not None
        bound = inspect.signature(type(self._site).forward).bind(self._site, *args, **kwargs)
        arguments = {name: value for name, value in bound.arguments.items() if name not in ("self", "kwargs")}
        arguments |= bound.arguments.get("kwargs", {})
        started = time.perf_counter()
        with self.own_forward():
            outputs = self._run(model, arguments)
        self.seconds += time.perf_counter() - started
        assert self._architecture is not None
        return self._architecture.answer(model, outputs, arguments)

    @contextmanager
    def own_forward(self) -> Iterator[None]:
        """Building reads the model and the torch engine is the model: inside, its `forward` is its own."""
        self._restore()
        try:
            yield
        finally:
            self._site.forward = self._forward

    def _restore(self) -> None:
        if self._site_forward is None:
            self._site.__dict__.pop("forward", None)
        else:
            self._site.forward = self._site_forward

    def _run(self, model: Any, arguments: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        tensors, sizes = self._tensors(model, arguments)
        return self._session_for(model, tensors, sizes).run("full", tensors, sizes)

    def _tensors(self, model: Any, arguments: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
        """The call as named tensors and the sizes of its axes; at the first call of an image the model is checked."""
        form = form_of(model, arguments)
        self._is_checked = self._is_checked and form == self._form
        if not self._is_checked:
            check_untouched(model)
            if has_adapters(model):
                check_mergeable(model)
            self._form, self._architecture = form, architecture_of(model, dtype=dtype_of(model), form=form)
        assert self._architecture is not None
        tensors = tensors_from_call(self._architecture, model, arguments)
        return tensors, call_sizes(self._architecture, tensors)

    def _session_for(self, model: Any, tensors: Mapping[str, torch.Tensor], sizes: Mapping[str, int]) -> Session:
        """The open session if it is for this model, its weights and this shape, else another one."""
        device = next(iter(tensors.values())).device
        state, identity = self._opened_with, self._identity(model) if not self._is_checked else ()
        if not self._is_checked:
            # Which other components have engines, and how these came about, makes no others of them.
            options = replace(self.options, components=None, build="auto")
            state = (self.part, self.branch, options, device, *identity)
        if self._opened is None or state != self._opened_with or not self._opened.session.serves(sizes):
            self.close()
            self._opened = shared_session(state, sizes, partial(self._open, model, device, sizes))
            self._other_seconds -= self._opened.session.seconds
            self._opened_with = state
        if not self._is_checked and self._opened.drop is not None:
            self._opened.drop()  # someone may have asked for them since
            self._dropped = (identity, self._opened.made_of)
        self._is_checked = True
        return self._opened.session

    def _open(self, model: Any, device: torch.device, sizes: Mapping[str, int]) -> SharedSession:
        target = Target(
            backend=backends.resolve(self.options.backend, device.type),
            store=Store(Path(self.options.store) if self.options.store else default_root()),
            build=self.options.build,
            shapes=self.options.shapes,
            options=self.options.build_options,
        )
        component = self._component(model)
        drop: Callable[[], None] | None = None

        def before_loading() -> None:
            nonlocal drop
            drop = self._dropping(model, component, target)
            if drop is not None:
                drop()

        with on_device(device):
            session = open_session(
                component,
                self.branch,
                target,
                sizes=sizes,
                progress=self._progress,
                before_loading=before_loading,
            )
        return SharedSession(session, drop, component)

    def _dropping(self, model: Any, component: Component, target: Target) -> Callable[[], None] | None:
        """What drops the model's torch weights; None where they stay."""
        if self.options.keep_torch_weights:
            return None
        if target.backend.runs_model or has_adapters(model):
            _log.info(
                "the torch weights of %s stay in memory: %s",
                component.title,
                "there are adapters on them" if has_adapters(model) else f"'{target.backend}' runs the model itself",
            )
            return None
        kept = weights_artefact(component, target.store, self._progress)
        drop_beside(model, component.architecture.module, target.store, kept)
        return partial(drop, model, component.architecture.module, target.store, kept)

    def _identity(self, model: Any) -> tuple[Any, ...]:
        return id(model), dtype_of(model), self._form, structure_of(model), version_of(model)

    def _component(self, model: Any) -> Component:
        """The model as material for a build, with the adapters that count now merged into its weights."""
        if self._dropped is not None and is_dropped(model) and self._dropped[0] == self._identity(model):
            return self._dropped[1]  # a hash of the weights would load them
        live = partial(from_model, model, name=self.name, part=self.part, form=self._form)
        if not has_adapters(model):
            return live()
        self._base_weights = base_weights(model, self._base_weights)
        base = None
        if self.options.refit:
            base = live(state=plain_state(model, self._base_weights, adapters=False))
        return live(state=plain_state(model, self._base_weights, adapters=True), base=base)


def call_sizes(architecture: Architecture, tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """The size of each dynamic axis of one call, checked before anything is built for it.

    Raises:
        ShapeError: a size that the graph cannot take, or two inputs that disagree about an axis.
    """
    specs = {spec.name: spec for spec in architecture.inputs}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    sizes = axis_sizes(specs, shapes)
    check_sizes(architecture, sizes)
    for name, shape in shapes.items():
        if len(shape) != len(specs[name].shape) or shape != specs[name].resolve(sizes):
            raise ShapeError(f"{name} has shape {list(shape)}, the graph takes {specs[name]} at {sizes}")
    return sizes
