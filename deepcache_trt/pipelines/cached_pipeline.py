"""Cached pipelines: subclasses of diffusers' own classes, whose models run on engines during a call."""

import contextlib
import copy
import functools
import inspect
import weakref
from collections.abc import Mapping
from typing import Any, Unpack

from deepcache_trt.arguments import check_arguments
from deepcache_trt.builder.plain_pipeline import load_pipeline
from deepcache_trt.errors import CheckpointError, UnsupportedError
from deepcache_trt.foreign import Pipeline
from deepcache_trt.models.definitions.pipelines import plain_class
from deepcache_trt.models.families.family import Family
from deepcache_trt.models.processors import kept_processors
from deepcache_trt.models.single_file import is_single_file
from deepcache_trt.pipelines.cached_controlnet import CachedControlNet
from deepcache_trt.pipelines.cached_denoiser import CachedDenoiser
from deepcache_trt.pipelines.engine_options import (
    CacheKeywords,
    EngineOptions,
    PipelineKeywords,
    live_paths,
    policy_from,
    split_keywords,
)
from deepcache_trt.pipelines.live_component import LiveComponent
from deepcache_trt.pipelines.patched_forward import alone_with
from deepcache_trt.pipelines.torch_weights import INSTEAD
from deepcache_trt.pipelines.whole_loop import Run, WholeLoop, recorded
from deepcache_trt.runtime.policies import DeepCache, Policy


class DeepCachePipeline:
    """Any covered diffusers pipeline with its denoiser, VAE decoder and text encoders on engines.

    `DeepCachePipeline.from_pretrained` and `.from_pipe` return an instance of a subclass of the very class that
    diffusers would have returned. For a class of its own choosing, take `DeepCacheStableDiffusionPipeline` and the
    like from `deepcache_trt.pipelines`; there is one for each pipeline class of diffusers.
    """

    _plain_class: Any = None  # the diffusers class beneath; None here: whatever the checkpoint says
    _cached_denoiser: CachedDenoiser | None = None
    _live_components: tuple[LiveComponent, ...] = ()  # those beside the denoiser
    # Of a copy: those of the pipeline that it was made from.
    _cache_settings: tuple[Policy, EngineOptions, str | None] | None = None
    _copied_from: "weakref.ref[DeepCachePipeline] | None" = None
    _cache_enabled = True
    last_run: Run | None = None  # what happened in the last call

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Unpack[PipelineKeywords]) -> Any:
        """Load a pipeline as diffusers does and put its denoiser on engines.

        Args:
            pretrained_model_name_or_path: a hub id, a folder, a name of the catalogue such as "digits", or a
                checkpoint in one file, see `from_single_file`.
            kwargs: fields of `DeepCache` (cache_interval, cache_branch_id, skip_mode, …), or `policy`, any policy, or
                `plan`, a file that holds one (`runtime.policies.plan_file`); fields of `EngineOptions` (backend, store,
                build); everything else goes to diffusers. Weights are read from safetensors only, unless
                `use_safetensors=False` says otherwise.

        Raises:
            CheckpointError: no such model, or none that diffusers can load.
            UnknownNameError: a misspelt option, an unknown backend, or a branch that the model does not have.
            DeepCacheError: a bad plan file, or a policy given in two ways.
        """
        policy, options, rest = split_keywords(kwargs, DeepCache(), EngineOptions())
        plain = load_pipeline(cls._base(), pretrained_model_name_or_path, rest)
        return _attach(plain, policy, options, name=str(pretrained_model_name_or_path))

    @classmethod
    def from_single_file(cls, pretrained_model_link_or_path: Any, **kwargs: Unpack[PipelineKeywords]) -> Any:
        """The same for a checkpoint in one file, as programs other than diffusers keep them.

        Args:
            pretrained_model_link_or_path: a file, or its address on the hub.
            kwargs: as for `from_pretrained`; and `config`, the folder, hub id or catalogue name of a pipeline of the
                same kind, from which everything but weights is taken. By default diffusers says of which.

        Raises:
            CheckpointError: no such file, one that diffusers cannot convert, or no `config` on this machine.
        """
        if not is_single_file(pretrained_model_link_or_path):
            raise CheckpointError(f"{pretrained_model_link_or_path} names no file of weights; use from_pretrained")
        return cls.from_pretrained(pretrained_model_link_or_path, **kwargs)

    @classmethod
    def from_pipe(cls, pipeline: Any, **kwargs: Unpack[PipelineKeywords]) -> Any:
        """The same for a live pipeline: it shares the components of `pipeline`, which stays as it is, and open engines.

        Args:
            pipeline: a pipeline of diffusers, cached or not.
            kwargs: as for `from_pretrained`; those of ours that are not given are as in `pipeline`, if it is cached.
                The rest goes to `from_pipe` of diffusers.
        """
        plain = copy.copy(pipeline)
        plain.__class__ = plain_class(pipeline)
        before, options, name = vars(plain).pop("_cache_settings", None) or _default_settings()
        policy, options, rest = split_keywords(kwargs, before, options)
        for attribute in ("_copied_from", "_cache_enabled", "last_run"):
            vars(plain).pop(attribute, None)
        if rest or (cls._plain_class is not None and type(plain) is not cls._plain_class):
            base = cls._plain_class or type(plain)
            # diffusers would cast to float32 unless told otherwise.
            if not {"dtype", "torch_dtype"} & set(rest):
                rest["dtype"] = plain.dtype
            plain = base.from_pipe(plain, **rest)
        return _attach(plain, policy, options, name=name)

    def set_cache_params(self, **changes: Unpack[CacheKeywords]) -> None:
        """Change how the next image will be cached, whatever was cached before.

        Args:
            changes: fields of `DeepCache`, the others stay; or `policy`, or `plan`, which say all of it.
        """
        denoiser = self._denoiser()
        policy = policy_from(changes, denoiser.policy)
        denoiser.check(policy)
        denoiser.policy = policy

    @property
    def policy(self) -> Policy:
        """How the next image will be cached."""
        return self._denoiser().policy

    @property
    def cache_params(self) -> Policy:
        """The same: what `set_cache_params` changes."""
        return self.policy

    @property
    def engine_options(self) -> EngineOptions:
        """Which engines it uses, and where they are kept."""
        return self._denoiser().options

    def enable_cache(self) -> None:
        """Run the denoiser on engines again after `disable_cache`."""
        self._cache_enabled = True

    def disable_cache(self) -> None:
        """Run plain diffusers from the next image on, and let go of the engines."""
        self._cache_enabled = False
        for component in (self._denoiser(), *self._live_components):
            component.close()
            component.load_weights()

    def enable_model_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        """Refused as long as the cache is enabled: engines hold the weights, and stay where they are."""
        self._refuse_offload("enable_model_cpu_offload")
        super().enable_model_cpu_offload(*args, **kwargs)  # type: ignore[misc]

    def enable_sequential_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        """Refused as `enable_model_cpu_offload` is."""
        self._refuse_offload("enable_sequential_cpu_offload")
        super().enable_sequential_cpu_offload(*args, **kwargs)  # type: ignore[misc]

    def enable_group_offload(self, *args: Any, **kwargs: Any) -> None:
        """Refused as `enable_model_cpu_offload` is."""
        self._refuse_offload("enable_group_offload")
        super().enable_group_offload(*args, **kwargs)  # type: ignore[misc]

    def _refuse_offload(self, method: str) -> None:
        if self._cache_enabled:
            raise UnsupportedError(
                f"{method}() moves the weights of torch models, and the models of this pipeline run on engines, which "
                f"hold weights of their own; leave it out, or call disable_cache() first. {INSTEAD}"
            )

    @classmethod
    def _base(cls) -> Any:
        from diffusers import DiffusionPipeline

        return cls._plain_class or DiffusionPipeline

    def _denoiser(self) -> CachedDenoiser:
        if self._cached_denoiser is None:  # constructed by its class, as `DeepCacheX(**components)`, or a copy
            policy, options, name = self._cache_settings or _default_settings()
            _give_engines(self, policy, options, name=name)
            assert self._cached_denoiser is not None
            self._follow_origin()
        return self._cached_denoiser

    def _follow_origin(self) -> None:
        origin = None if self._copied_from is None else self._copied_from()
        if origin is not None and self._cached_denoiser is not None:
            theirs = {each.part: each for each in (origin._denoiser(), *origin._live_components)}
            for component in (self._cached_denoiser, *self._live_components):
                if component.part in theirs:
                    component.follow(theirs[component.part])

    def _components_now(self: Any) -> tuple[LiveComponent, ...]:
        """Those beside the denoiser that run on engines, of what the pipeline has now."""
        denoiser: CachedDenoiser = self._denoiser()
        components: tuple[LiveComponent, ...] = self._live_components
        paths = live_paths(self, denoiser.options)
        if [component.part for component in components] != list(paths):
            for component in components:
                component.close()
            self._live_components = components = _live_components(self, paths, denoiser)
        return components

    def __copy__(self) -> Any:
        """A pipeline on the same models with caches of its own."""
        other = object.__new__(type(self))
        vars(other).update(self.__getstate__(), _copied_from=weakref.ref(self))
        return other

    def __getstate__(self) -> dict[str, Any]:
        """What a copy, or a pickle, takes over: everything but open engines, which are for one pipeline."""
        state = dict(vars(self))
        denoiser = state.pop("_cached_denoiser", None)
        for attribute in ("_live_components", "_copied_from"):
            state.pop(attribute, None)
        if denoiser is not None:
            state["_cache_settings"] = (denoiser.policy, denoiser.options, denoiser.name)
        return state


@functools.cache
def cached_class(base: Any) -> Any:
    """The cached subclass of a pipeline class of diffusers, the same object every time."""

    signature = inspect.signature(base.__call__)

    @functools.wraps(base.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        arguments = signature.bind_partial(self, *args, **kwargs).arguments
        if not self._cache_enabled:
            return base.__call__(self, *args, **kwargs)
        check_arguments(
            {n: v for n, v in arguments.items() if v is not None or signature.parameters[n].default is not None},
            own_size=self._denoiser().own_size,
            layers=_skippable(self),
        )
        self._denoiser().check_size(arguments.get("height"), arguments.get("width"))
        denoiser, others = self._denoiser(), self._components_now()
        loop = WholeLoop(self, denoiser, arguments)
        with contextlib.ExitStack() as stack:
            stack.enter_context(alone_with([*self.components.values(), *(each.model for each in others)]))
            if loop.refusal:  # it may do more than those that are known
                stack.enter_context(kept_processors(denoiser.model, base.__name__))
            for component in (denoiser, *others):
                stack.enter_context(component.installed())
            stack.enter_context(recorded(self, denoiser, others, loop))
            stack.enter_context(loop.installed())
            try:
                drawn = base.__call__(self, *args, **kwargs)
            except Exception:
                denoiser.check_made()  # which may be why the decoder, or a checker, refused the latents
                raise
            denoiser.check_made()
            return drawn

    namespace = {
        "__call__": call,
        "__doc__": f"{base.__name__} of diffusers with its models on engines; see `DeepCachePipeline`.",
        "__module__": "deepcache_trt.pipelines",
        "__qualname__": f"DeepCache{base.__name__}",
        "_plain_class": base,
    }
    # diffusers writes a pipeline's `__name__` into model_index.json and looks pipelines up by it: with that of the
    # base, what is saved here loads there, and the Auto classes know it.
    return type(base.__name__, (DeepCachePipeline, base), namespace)


def _default_settings() -> tuple[Policy, EngineOptions, str | None]:
    return DeepCache(), EngineOptions(), None


def _attach(plain: Any, policy: Policy, options: EngineOptions, *, name: str | None) -> Any:
    base: Any = type(plain)
    plain.__class__ = cached_class(base)
    _give_engines(plain, policy, options, name=name)
    return plain


def _give_engines(pipe: Any, policy: Policy, options: EngineOptions, *, name: str | None) -> None:
    pipe._cached_denoiser = CachedDenoiser(pipe, policy, options, name=name)
    pipe._live_components = _live_components(pipe, live_paths(pipe, options), pipe._cached_denoiser)


def _skippable(pipe: Any) -> int | None:
    """How many layers `clip_skip` can skip: pipelines of two text encoders never take the last one's output."""
    count = getattr(getattr(getattr(pipe, "text_encoder", None), "config", None), "num_hidden_layers", None)
    return count if count is None or getattr(pipe, "text_encoder_2", None) is None else count - 1


def _live_components(
    pipe: Pipeline, paths: Mapping[str, Family], denoiser: CachedDenoiser
) -> tuple[LiveComponent, ...]:
    return tuple(
        CachedControlNet(pipe, path, denoiser.options, denoiser, name=denoiser.name)
        if family.follows_denoiser
        else LiveComponent(pipe, path, denoiser.options, name=denoiser.name)
        for path, family in paths.items()
    )
