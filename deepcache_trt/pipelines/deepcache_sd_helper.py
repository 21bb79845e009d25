"""The interface of the DeepCache package (PyPI `DeepCache`) on engines: its users change one import."""

from typing import Any

from deepcache_trt.errors import DeepCacheError
from deepcache_trt.foreign import Pipeline
from deepcache_trt.pipelines.cached_denoiser import CachedDenoiser
from deepcache_trt.pipelines.engine_options import EngineOptions
from deepcache_trt.runtime.plan import CacheParams


class DeepCacheSDHelper:
    """Caches a pipeline in place, between `enable` and `disable`.

    Differs from the package where the package goes wrong: the schedule counts calls instead of looking timesteps up,
    so samplers that repeat one (PNDM, Heun) are cached as asked, and parameters may change while it is enabled.
    """

    def __init__(
        self, pipe: Pipeline | None = None, *, backend: str = "auto", store: Any = None, build: str = "auto"
    ) -> None:
        """Take a pipeline of diffusers; `backend`, `store` and `build` are those of `EngineOptions`."""
        self.pipe = pipe
        self._params = CacheParams(cache_interval=1)
        self._options = EngineOptions(backend=backend, store=store, build=build)
        self._denoiser: CachedDenoiser | None = None

    def set_params(
        self, cache_interval: int = 1, cache_branch_id: int = 0, skip_mode: str = "uniform", **schedule: Any
    ) -> None:
        """Set how the next images are cached; `schedule` takes the other fields of `CacheParams`."""
        params = CacheParams(
            cache_interval=cache_interval, cache_branch_id=cache_branch_id, skip_mode=skip_mode, **schedule
        )
        if self._denoiser is not None:
            self._denoiser.check(params)
            self._denoiser.params = params
        self._params = params

    def enable(self, pipe: Pipeline | None = None) -> None:
        """Run the pipeline's denoiser on engines from the next image on."""
        pipe = pipe if pipe is not None else self.pipe
        if pipe is None:
            raise DeepCacheError("no pipeline to cache; use DeepCacheSDHelper(pipe=…) or enable(pipe)")
        if self._denoiser is not None and pipe is not self.pipe:
            self.disable()
        self.pipe = pipe
        if self._denoiser is None:
            self._denoiser = CachedDenoiser(pipe, self._params, self._options)
        self._denoiser.install(everywhere=True)

    def disable(self) -> None:
        """Give the pipeline its own denoiser back and let go of the engines."""
        if self._denoiser is not None:
            self._denoiser.remove()
            self._denoiser.close()
            self._denoiser = None
