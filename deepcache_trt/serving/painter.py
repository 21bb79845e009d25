"""What draws: the pipelines of the models, each of which draws pictures of one kind as one batch."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from PIL import Image

from deepcache_trt.builder.model_source import ModelSource
from deepcache_trt.engines import backends
from deepcache_trt.errors import DeepCacheError, UnknownNameError, UnsupportedError, did_you_mean
from deepcache_trt.models.definitions.pipelines import IMAGE, TEXT, class_for_task
from deepcache_trt.pipelines.cached_pipeline import DeepCachePipeline, cached_class
from deepcache_trt.pipelines.engine_options import EngineOptions
from deepcache_trt.runtime.plan import FULL, SKIP
from deepcache_trt.runtime.policies import Policy, Uncached
from deepcache_trt.samplers import parse_sampler
from deepcache_trt.serving.wanted import Wanted

# A batch has one of these sizes, so that engines meet few shapes: it is padded to the next one.
SIZES = (1, 2, 4, 8, 16)


@dataclass(frozen=True, kw_only=True)
class Served:
    """What is served.

    Attributes:
        models: as `DeepCachePipeline.from_pretrained` takes them, by the names that requests use.
        adapters: files or hub ids of LoRAs, by the names that requests use.
        options: which engines.
        dtype: of the pipelines; None: float16 on a GPU, float32 without one.
        is_plain: whether plain diffusers draws, which is there to be compared with.
    """

    models: Mapping[str, str]
    adapters: Mapping[str, str]
    options: EngineOptions
    dtype: str | None = None
    is_plain: bool = False


@dataclass(frozen=True, kw_only=True)
class Painted:
    """A picture and what it took.

    Attributes:
        image: of PIL.
        calls: of the denoiser: how many were full, cached and left out.
        seconds: of its whole batch.
        batch: pictures that were drawn together with it, itself among them.
        opened: engines that were opened for the batch; none where all were open.
    """

    image: Image.Image
    calls: Mapping[str, int]
    seconds: float
    batch: int
    opened: int


def check_served(wanted: Wanted, models: Iterable[str], adapters: Iterable[str]) -> None:
    """Raise UnknownNameError for a model or an adapter that is not served."""
    asked = [("model", wanted.model, list(models)), *(("adapter", name, list(adapters)) for name, _ in wanted.adapters)]
    for what, name, known in asked:
        if name not in known:
            there = ", ".join(known) or "none"
            raise UnknownNameError(f"unknown {what} {name!r}{did_you_mean(name, known)}; there are {there}")


class Painter:
    """Pipelines of the models, loaded when they are first asked for."""

    def __init__(self, served: Served) -> None:
        """Nothing is loaded yet."""
        self._served = served
        self._pipes: dict[tuple[str, str, bool], Any] = {}
        self._lock = threading.Lock()

    def paint(
        self,
        wanted: Sequence[Wanted],
        told: Callable[[int, int], None] = lambda done, total: None,
        is_deserted: Callable[[], bool] = lambda: False,
        *,
        is_plain: bool | None = None,
    ) -> list[Painted]:
        """Draw pictures of one kind; each is the one that is drawn alone, but for rounding.

        Args:
            wanted: at most as many as the largest of `SIZES`.
            told: called with the steps that are done, and all.
            is_deserted: asked at each step whether to stop.
            is_plain: whether plain diffusers draws; None: as is served.

        Raises:
            DeepCacheError: the pipeline refuses something, or what it draws is no picture.
        """
        first, count = wanted[0], len(wanted)
        padded = [*wanted, *[wanted[-1]] * (next(size for size in SIZES if size >= count) - count)]
        with self._lock:
            plain = self._served.is_plain if is_plain is None else is_plain
            pipe = self._ready(first, plain)
            started = time.perf_counter()
            pipe.progress_bar = _Steps(pipe, told, is_deserted)
            try:
                images = pipe(**self._arguments(pipe, padded)).images
            except DeepCacheError:
                raise
            except ValueError as error:  # how diffusers refuses an argument
                raise DeepCacheError(f"{type(pipe).__name__} refuses this: {error}") from error
            finally:
                vars(pipe).pop("progress_bar", None)
            seconds = time.perf_counter() - started
            run = None if plain else pipe.last_run
            calls = _calls(run)
            return [
                Painted(
                    image=image,
                    calls=calls,
                    seconds=seconds,
                    batch=count,
                    opened=0 if run is None else sum(run.opened.values()),
                )
                for image in images[:count]
            ]

    def warm(self, model: str, policy: Policy, most: int) -> None:
        """Load a model and open all that a policy needs, by drawing two steps with each size of a batch up to one."""
        wanted = Wanted(model=model, prompt="", seed=0, steps=2, policy=policy)
        for size in (size for size in SIZES if size <= most):
            self.paint([wanted] * size)

    def _ready(self, wanted: Wanted, plain: bool) -> Any:
        """The pipeline of the task, with the scheduler, policy and adapters of a picture."""
        pipe = self._pipe(wanted.model, TEXT if wanted.image is None else IMAGE, plain)
        own = self._pipe(wanted.model).own_scheduler
        pipe.scheduler = parse_sampler(wanted.scheduler, own).scheduler(own) if wanted.scheduler else own
        pipe.set_cache_params(policy=wanted.policy)
        if self._served.adapters:
            _adapt(pipe, wanted.adapters)
        return pipe

    def _pipe(self, model: str, task: str = TEXT, plain: bool = False) -> Any:
        """A pipeline; all of a model share its components, and one that is plain never runs an engine."""
        if (model, task, plain) not in self._pipes:
            if plain:
                pipe = DeepCachePipeline.from_pipe(self._pipe(model, task))
                pipe.disable_cache()
            else:
                pipe = self._load(model) if task == TEXT else self._of_images(model)
            self._pipes[model, task, plain] = pipe
        return self._pipes[model, task, plain]

    def _load(self, model: str) -> Any:
        served = self._served
        device = backends.best_device(served.options.backend)
        pipe = DeepCachePipeline.from_pretrained(
            served.models[model],
            policy=Uncached(),
            dtype=getattr(torch, backends.dtype_or_default(served.dtype, device)),
            **vars(served.options),
            **ModelSource(model=served.models[model]).pretrained_arguments(),
        ).to(device)
        if "prompt" not in signature(type(pipe).__call__).parameters:
            raise UnsupportedError(f"{model} takes no prompt, which is all that requests say; serve another model")
        pipe.set_progress_bar_config(disable=True)
        for name, file in served.adapters.items():
            pipe.load_lora_weights(file, adapter_name=name)
        pipe.own_scheduler = pipe.scheduler
        return pipe

    def _of_images(self, model: str) -> Any:
        pipe = self._pipe(model)
        found = class_for_task(IMAGE, pipe._plain_class)
        if found is None:
            raise UnsupportedError(f"{model} draws from prompts alone; leave the image out")
        return cached_class(found).from_pipe(pipe)

    def _arguments(self, pipe: Any, wanted: Sequence[Wanted]) -> dict[str, Any]:
        first = wanted[0]
        found: dict[str, Any] = {
            "prompt": [each.prompt for each in wanted],
            "num_inference_steps": first.steps,
            # On the CPU and one for each picture, so that neither the device nor the batch changes a noise.
            "generator": [torch.Generator().manual_seed(each.seed) for each in wanted],
        }
        if any(each.negative_prompt for each in wanted):
            found["negative_prompt"] = [each.negative_prompt for each in wanted]
        if first.guidance is not None:
            found["guidance_scale"] = first.guidance
        if first.image is not None:
            return {**found, "image": [each.image for each in wanted], "strength": first.strength}
        if first.height is not None:
            found |= {"height": first.height, "width": first.width}
        return found


class _Steps:
    """Stands for a pipeline's progress bar: tells the steps, and stops the pipeline where nobody waits."""

    def __init__(self, pipe: Any, told: Callable[[int, int], None], is_deserted: Callable[[], bool]) -> None:
        self._pipe, self._told, self._is_deserted = pipe, told, is_deserted
        self.n, self.total = 0, 1

    def __call__(self, iterable: Any = None, total: int | None = None) -> "_Steps":
        self.n, self.total = 0, total or 1
        return self

    def __enter__(self) -> "_Steps":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, steps: int = 1) -> None:
        self.n += steps
        self._told(self.n, self.total)
        if self._is_deserted():
            self._pipe._interrupt = True


def _calls(run: Any) -> dict[str, int]:
    if run is None or run.plan is None:
        return {}
    variants = run.plan.variants
    full, skipped = variants.count(FULL), variants.count(SKIP)
    return {"full": full, "cached": len(variants) - full - skipped, "skipped": skipped}


def _adapt(pipe: Any, adapters: Sequence[tuple[str, float]]) -> None:
    if not adapters:
        pipe.disable_lora()
        return
    pipe.enable_lora()
    pipe.set_adapters([name for name, _ in adapters], [weight for _, weight in adapters])
