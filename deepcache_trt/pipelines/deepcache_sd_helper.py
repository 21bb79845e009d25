"""The interface of the DeepCache package (PyPI `DeepCache`) on engines: its users change one import."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from deepcache_trt.errors import DeepCacheError
from deepcache_trt.foreign import Pipeline
from deepcache_trt.pipelines.cached_denoiser import CachedDenoiser
from deepcache_trt.pipelines.engine_options import EngineOptions
from deepcache_trt.pipelines.patched_forward import alone_with
from deepcache_trt.runtime.policies.deepcache import DeepCache


class DeepCacheSDHelper:
    """Caches a pipeline in place, between `enable` and `disable`.

    Differs from the package where the package goes wrong: the schedule counts calls instead of looking timesteps up,
    so samplers that repeat one (PNDM, Heun) are cached as asked; parameters may change while it is enabled; and shallow
    copies of the pipeline are cached by schedulers of their own, in threads too.
    """

    def __init__(
        self, pipe: Pipeline | None = None, *, backend: str = "auto", store: Any = None, build: str = "auto"
    ) -> None:
        """Take a pipeline of diffusers; `backend`, `store` and `build` are those of `EngineOptions`."""
        self.pipe = pipe
        self._policy = DeepCache(cache_interval=1)
        self._options = EngineOptions(backend=backend, store=store, build=build)
        self._denoiser: CachedDenoiser | None = None

    def set_params(
        self, cache_interval: int = 1, cache_branch_id: int = 0, skip_mode: str = "uniform", **schedule: Any
    ) -> None:
        """Set how the next images are cached; `schedule` takes the other fields of `DeepCache`."""
        policy = DeepCache(
            cache_interval=cache_interval, cache_branch_id=cache_branch_id, skip_mode=skip_mode, **schedule
        )
        if self._denoiser is not None:
            self._denoiser.check(policy)
            self._denoiser.policy = policy
        self._policy = policy

    @property
    def params(self) -> dict[str, Any]:
        """What was set, by the names under which the package keeps it, for programs that show it."""
        block, layer = divmod(self._policy.cache_branch_id, 3)
        return {
            "cache_interval": self._policy.cache_interval,
            "cache_layer_id": layer,
            "cache_block_id": block,
            "skip_mode": self._policy.skip_mode,
        }

    def enable(self, pipe: Pipeline | None = None) -> None:
        """Run the pipeline's denoiser on engines from the next image on; another helper of the pipeline is disabled."""
        pipe = pipe if pipe is not None else self.pipe
        if pipe is None:
            raise DeepCacheError("no pipeline to cache; use DeepCacheSDHelper(pipe=…) or enable(pipe)")
        if self._denoiser is not None and pipe is not self.pipe:
            self.disable()
        self.pipe = pipe
        if self._denoiser is None:
            self._denoiser = CachedDenoiser(pipe, self._policy, self._options)
        _tell(pipe, self)
        self._denoiser.install(everywhere=True)

    def disable(self) -> None:
        """Give the pipeline its own denoiser back and let go of the engines."""
        if self._denoiser is not None:
            assert self.pipe is not None
            _tell(self.pipe, None)
            self._denoiser.remove()
            self._denoiser.close()
            self._denoiser = None

    @contextmanager
    def _drawing(self, pipe: Any) -> Iterator[None]:
        """Within the block `pipe`, or a copy of it, draws: by a schedule of its own, and alone with its models."""
        if self._denoiser is None:
            yield
            return
        with alone_with(pipe.components.values()):
            denoiser = self._denoiser
            if pipe is self.pipe:
                denoiser.install(everywhere=True)  # it may have another model since
            else:
                denoiser = CachedDenoiser(pipe, self._denoiser.policy, self._options)
                denoiser.follow(self._denoiser)
            with denoiser.installed():
                yield
                denoiser.check_made()


class _Told:
    """Mixed into the class of an enabled pipeline, whose calls, and those of its copies, tell the helper who draws.

    What calls the denoiser does not say so, and each pipeline has a scheduler, and with it a schedule, of its own.
    """

    _untold: Any  # the class without this

    def __copy__(self) -> Any:
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        vars(other).pop("backward_loop", None)  # what stands there is for one pipeline
        return other

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickles and deep copies, whose models are others, are pipelines as they were before."""
        other = self.__copy__()
        _tell(other, None)
        _, classes, *state = other.__reduce_ex__(protocol)
        return object.__new__, classes, *state


@functools.cache
def _told(base: Any) -> Any:
    @functools.wraps(base.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self._deepcache_helper._drawing(self):
            return base.__call__(self, *args, **kwargs)

    # By its names diffusers knows what to save and to load.
    names = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    plain = getattr(base, "_plain_class", None) or base
    return type(base.__name__, (_Told, base), {**names, "__call__": call, "_untold": base, "_plain_class": plain})


def _tell(pipe: Any, helper: DeepCacheSDHelper | None) -> None:
    """Let the calls of a pipeline be told to a helper, instead of to another one, which is disabled, or to none."""
    if isinstance(pipe, _Told):
        pipe.__class__ = type(pipe)._untold
        before: DeepCacheSDHelper = vars(pipe).pop("_deepcache_helper")
        if helper is not None and before is not helper and before.pipe is pipe:
            before.disable()
    if helper is not None:
        base: Any = type(pipe)
        pipe.__class__ = _told(base)
        pipe._deepcache_helper = helper
