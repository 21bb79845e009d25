"""A model of a live pipeline whose calls go to engines.

The real model stays registered in the pipeline; only a `forward` is replaced on the instance, for as long as it is
installed.
"""

import functools
import inspect
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch

from deepcache_trt.builder.component import Component
from deepcache_trt.builder.open_session import open_session
from deepcache_trt.builder.pieces import variants_of
from deepcache_trt.builder.shapes import call_sizes
from deepcache_trt.builder.shared_session import OpenEngines, SharedSession, make_room
from deepcache_trt.builder.target import Target
from deepcache_trt.engines import backends
from deepcache_trt.engines.backend import Backend
from deepcache_trt.engines.store import Store, default_root
from deepcache_trt.foreign import Model, Pipeline
from deepcache_trt.models.architecture import Architecture, CallForm
from deepcache_trt.models.calls import check_given, check_made, check_ungraded, form_of, tensors_from_call
from deepcache_trt.models.fresh import dtype_of
from deepcache_trt.models.registry import architecture_of, family_of
from deepcache_trt.models.structure import Looked
from deepcache_trt.pipelines.adapters import check_mergeable, has_adapters
from deepcache_trt.pipelines.calibrating.beside import as_asked
from deepcache_trt.pipelines.engine_options import EngineOptions
from deepcache_trt.pipelines.material import Identity, Material, Version, arrange, places_of
from deepcache_trt.pipelines.patched_forward import PatchedForward
from deepcache_trt.pipelines.torch_weights import check_not_offloaded, load, may_be_offloaded
from deepcache_trt.progress import Progress, as_in_diffusers
from deepcache_trt.runtime.device import on_device
from deepcache_trt.runtime.plan import FULL
from deepcache_trt.runtime.policies import Policy, Uncached
from deepcache_trt.runtime.session import Session

_signature = functools.cache(inspect.signature)


class LiveComponent:
    """One model of a pipeline; while it is installed, its calls run on engines for its weights as they are."""

    policy: Policy = Uncached()  # which variants it has; only a denoiser's is chosen, and followed by what steers it

    def __init__(
        self,
        pipe: Pipeline,
        part: str,
        options: EngineOptions,
        *,
        name: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Nothing is built before the first call.

        Args:
            pipe: the pipeline.
            part: the attribute of the pipeline that holds the model, or a path from there, as "controlnet.nets.0".
            options: which engines.
            name: what messages call the pipeline's model.
            progress: told about each stage of a build; None: as the pipeline shows its steps.
        """
        self.part, self.options = part, options
        self.name = str(name or pipe.config.get("_name_or_path") or type(pipe).__name__)
        self.seconds = 0.0  # spent in calls of the model
        self.engines = OpenEngines()
        self._pipe = pipe
        self._progress = progress
        self._patch = PatchedForward(self._forward)
        self._material = Material(self.name, part, refit=options.refit, keep_torch_weights=options.keep_torch_weights)
        self._architecture: Architecture | None = None
        self._form = CallForm()
        self._looked: Looked | None = None
        self._is_checked = False
        self._backends: dict[str, Backend] = {}  # by kind of device
        self._seen: tuple[Identity, Identity] | None = None  # the marks of the model at the last image, and what it was
        self._doubt: Version | None = None  # what is being read to confirm that it still is
        check_not_offloaded(self.model, part)

    @property
    def model(self) -> Any:
        """The model that the pipeline has now."""
        return attrgetter(self.part)(self._pipe)

    @property
    def session(self) -> Session | None:
        """What is open now; other pipelines with the same model may hold it too."""
        return self.engines.session

    @property
    def title(self) -> str:
        """Its engines, in words."""
        return f"the engines of {self.name} {self.part} ({', '.join(map(str, self._backends.values()))})"

    def follow(self, origin: "LiveComponent") -> None:
        """Share with `origin`, the same of the pipeline that this one is a copy of, what is known of their model.

        Servers make a copy for each request: what is opened for one stays open in its origin.
        """
        self.engines.keep_in(origin.engines)
        if self.model is origin.model:
            self._material = origin._material

    def install(self, *, everywhere: bool = False) -> None:
        """Send the calls of the model here until `remove`: those of this thread, or of every thread."""
        model = self.model
        if self._patch.model is model:
            return
        if may_be_offloaded(model):
            check_not_offloaded(model, self.part)
        # Of a VAE the module is the decoder, which serves whole images, slices and tiles.
        self._patch.install(model, family_of(type(model).__name__).module, everywhere=everywhere)
        self._is_checked = False

    def remove(self) -> None:
        """Give the model its own `forward` back."""
        self._patch.remove()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """`install` for the length of a block; nothing of an earlier block reaches into it."""
        is_nested = self._patch.model is not None
        self.install()
        try:
            with self._patch.preferred():
                yield
        finally:
            if not is_nested:
                self.remove()

    def close(self) -> None:
        """Let go of the engines; the next call loads them again."""
        self.engines.close()
        self._is_checked = False

    def rest(self) -> None:
        """Hold no weight of the model until the next call, for whoever moves or frees them; engines stay open."""
        self.remove()
        self._material.forget()
        self._looked, self._is_checked = None, False

    def load_weights(self) -> None:
        """Load the model's torch weights if they were dropped."""
        load(self.model)

    def own_forward(self) -> AbstractContextManager[None]:
        """Building reads the model and the torch engine is the model: inside, its `forward` is its own."""
        return self._patch.lifted()

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        model, site = self._patch.model, self._patch.site
        assert model is not None
        bound = _signature(type(site).forward).bind(site, *args, **kwargs)
        arguments = {name: value for name, value in bound.arguments.items() if name not in ("self", "kwargs")}
        arguments |= bound.arguments.get("kwargs", {})
        check_ungraded(self.part, arguments)
        started = time.perf_counter()
        with self.own_forward():
            outputs = self._run(model, arguments)
        self.seconds += time.perf_counter() - started
        assert self._architecture is not None
        return self._architecture.answer(model, outputs, arguments)

    def _run(self, model: Model, arguments: Mapping[str, Any]) -> Mapping[str, torch.Tensor]:
        tensors, sizes = self._tensors(model, arguments)
        made = self._on_session(model, tensors, sizes, lambda session: session.run(FULL, tensors, sizes))
        check_made(self.title, made, given=lambda: check_given(self.part, tensors))
        return made

    def _on_session(
        self,
        model: Model,
        tensors: Mapping[str, torch.Tensor],
        sizes: Mapping[str, int],
        run: Callable[[Session], Mapping[str, torch.Tensor]],
    ) -> Mapping[str, torch.Tensor]:
        """What `run` gives on the session for the model as it is.

        All weights are read while the first call of an image runs. Where someone has written to them in a way that
        leaves no mark, the call is run again, on the session for what they are now.
        """
        try:
            outputs = run(self._session_for(model, tensors, sizes))
        finally:
            doubt, self._doubt = self._doubt, None
            if doubt is not None:  # whatever was raised, also by opening engines: what is read must not be freed
                doubt.wait()
        if doubt is None or self._seen is None or self._identity(model, doubt) == self._seen[1]:
            return outputs
        self._seen, self._is_checked = None, False
        return run(self._session_for(model, tensors, sizes))

    def _identity(self, model: Model, version: Version | None) -> Identity:
        assert self._looked is not None
        return self._material.identity(model, self._form, self._looked, version)

    def _identity_so_far(self, model: Model) -> Identity:
        """That of the model if it is as it was by all its marks, to be confirmed by `_doubt`; else as it is now."""
        assert self._looked is not None
        marks = self._material.marks(model, self._form, self._looked)
        drops = self.engines.opened is not None and self.engines.opened.drop is not None
        if self._seen is not None and self._seen[0] == marks and not drops:
            self._doubt = self._material.version(model, self._looked)
        else:
            self._seen = marks, self._identity(model, None)
        return self._seen[1]

    def _tensors(self, model: Model, arguments: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
        """The call as named tensors and the sizes of its axes; at the first call of an image the model is checked."""
        form = form_of(model, arguments)
        self._is_checked = self._is_checked and form == self._form
        if not self._is_checked:
            self._looked = self._material.look(model)  # raises where no graph can carry what the model is
            if has_adapters(model):
                check_mergeable(model)
            self._form, self._architecture = form, architecture_of(model, dtype=dtype_of(model), form=form)
        assert self._architecture is not None
        tensors = tensors_from_call(self._architecture, model, arguments)
        return tensors, call_sizes(self._architecture, tensors)

    def _session_for(self, model: Model, tensors: Mapping[str, torch.Tensor], sizes: Mapping[str, int]) -> Session:
        """The open session if it is for this model, its weights and this shape, else another one."""
        device = next(iter(tensors.values())).device
        identity, state = (), self.engines.state or ()
        if not self._is_checked:
            assert self._looked is not None
            assert self._architecture is not None
            reads_model = self._backend_on(device).runs_model
            if reads_model and device.type == "cuda":
                arrange(model)
            identity = self._identity_so_far(model)
            # Which other components have engines, and how these came about, makes no others of them.
            options = replace(self.options, components=None, build="auto")
            variants = variants_of(self._architecture, self.policy, self.name), self.policy.segments
            scaled_by = options.precision and self.policy  # other engines serve every schedule of their variants
            state = (self.part, *variants, options, scaled_by, device, *identity)
            if reads_model:  # from where its weights are, also in what was recorded
                state += places_of(self._looked.snapshot.tensors)
        opened = self.engines.take(state, sizes, functools.partial(self._open, model, device, sizes))
        if not self._is_checked and opened.drop is not None:
            opened.drop()  # someone may have asked for them since
            self._material.remember_dropped(identity, opened.made_of)
        self._is_checked = True
        return opened.session

    def _backend_on(self, device: torch.device) -> Backend:
        if device.type not in self._backends:
            self._backends[device.type] = backends.resolve(self.options.backend, device.type)
        return self._backends[device.type]

    def _component_of(self, model: Model) -> Component:
        """What engines are made of."""
        return as_asked(self._pipe, self._material.component(model, self._form), self.options)

    def _open(self, model: Model, device: torch.device, sizes: Mapping[str, int]) -> SharedSession:
        target = Target(
            backend=self._backend_on(device),
            store=Store(Path(self.options.store) if self.options.store else default_root()),
            build=self.options.build,
            shapes=self.options.shapes,
            options=self.options.build_options,
            segments=self.options.segments,
        )
        component = self._component_of(model)
        # What torch engines record on a GPU takes memory of its own.
        held = 0 if target.backend.runs_model and device.type == "cpu" else component.weight_bytes
        make_room(held, device)
        progress = self._progress or as_in_diffusers(getattr(self._pipe, "_progress_bar_config", {}))
        drop: Callable[[], None] | None = None

        def before_loading() -> None:
            nonlocal drop
            drop = self._material.dropping(model, component.unquantized, target, progress)
            if drop is not None:
                drop()

        with on_device(device):
            session = open_session(
                component, self.policy, target, sizes=sizes, progress=progress, before_loading=before_loading
            )
        return SharedSession(session, drop, component, held_bytes=held)
