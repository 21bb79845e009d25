"""The per-step way in: a pipeline runs its own loop, and each call of its denoiser goes to an engine.

The real model stays registered in the pipeline; only its `forward` is replaced on the instance. A generation begins
when the scheduler has got a new table of timesteps, so calls in a row, changed parameters, strengths and sizes all
start from a fresh plan and empty taps.
"""

import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deepcache_trt.engines import backends
from deepcache_trt.engines.profile import ShapeProfile
from deepcache_trt.engines.store import Store, default_root
from deepcache_trt.errors import ShapeError, UnknownNameError, UnsupportedError
from deepcache_trt.models.architectures import Architecture, architecture_of
from deepcache_trt.models.calls import check_untouched, tensors_from_call, wrap_output
from deepcache_trt.pipelines.build import Target, check_branch, open_session, widest_profile
from deepcache_trt.pipelines.denoiser import from_model
from deepcache_trt.progress import Progress, shown
from deepcache_trt.runtime.plan import FULL, CacheParams, Plan, make_plan
from deepcache_trt.runtime.session import Session
from deepcache_trt.tensors import axis_sizes

_log = logging.getLogger(__name__)

# Elements of each weight that are looked at before each image.
_SAMPLES = 8

BUILD_MODES = ("auto", "never")


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Which engines a pipeline uses and where they are kept.

    Attributes:
        backend: "auto", or a name that `deepcache-trt doctor` lists.
        store: the folder of built engines; None: `$DEEPCACHE_TRT_STORE` or the user's cache folder.
        build: "auto" builds what is missing at first use, "never" refuses instead and names the command.
    """

    backend: str = "auto"
    store: Path | str | None = None
    build: str = "auto"

    def __post_init__(self) -> None:
        if self.build not in BUILD_MODES:
            raise UnknownNameError(f"unknown build={self.build!r}; there are {', '.join(map(repr, BUILD_MODES))}")
        backends.check_name(self.backend)


class CachedDenoiser:
    """Stands in for the `forward` of a pipeline's denoiser."""

    def __init__(
        self,
        pipe: Any,
        params: CacheParams,
        options: EngineOptions,
        *,
        name: str | None = None,
        progress: Progress = shown,
    ) -> None:
        """Check `params` and the model; nothing is built before the first call.

        Raises:
            UnsupportedError: the pipeline's denoiser is not covered.
            UnknownNameError: no such branch.
        """
        self.options = options
        self.name = name or pipe.config.get("_name_or_path") or type(pipe).__name__
        self._pipe = pipe
        self._progress = progress
        self._installed_on: torch.nn.Module | None = None
        self._model_forward: Any = None
        self._signature: inspect.Signature | None = None
        self._architecture: Architecture | None = None
        self._session: Session | None = None
        self._opened_with: Any = None
        self._timesteps: Any = None
        self._plan = Plan(variants=())
        self._calls = 0
        self.params = params
        self.check(params)

    @property
    def model(self) -> torch.nn.Module:
        """The denoiser that the pipeline has now."""
        for name in ("unet", "transformer"):
            model = getattr(self._pipe, name, None)
            if isinstance(model, torch.nn.Module):
                return model
        raise UnsupportedError(f"{type(self._pipe).__name__} has neither a unet nor a transformer")

    def check(self, params: CacheParams) -> None:
        """Raise unless the model has the branch of `params`."""
        check_branch(_describe(self.model), params.cache_branch_id, self.name)

    def install(self) -> None:
        """Send the calls of the denoiser here until `remove`."""
        model = self.model
        if self._installed_on is model:
            return
        self.remove()
        self._model_forward = model.__dict__.get("forward")
        self._installed_on = model
        self._signature = inspect.signature(type(model).forward)
        self._timesteps = None
        model.forward = self._forward

    def remove(self) -> None:
        """Give the denoiser its own `forward` back."""
        model, self._installed_on = self._installed_on, None
        if model is not None:
            _restore(model, self._model_forward)

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
        if self._session is not None:
            self._session.close()
        self._session = self._opened_with = None

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        model = self._installed_on
        assert model is not None
        assert self._signature is not None
        arguments = self._signature.bind(model, *args, **kwargs).arguments
        arguments.pop("self")
        with self._own_forward(model):
            prediction = self._predict(model, arguments)
        return wrap_output(model, prediction) if arguments.get("return_dict", True) else (prediction,)

    @contextmanager
    def _own_forward(self, model: torch.nn.Module) -> Iterator[None]:
        """Building reads the model and the torch engine is the model: inside, its `forward` is its own."""
        _restore(model, self._model_forward)
        try:
            yield
        finally:
            model.forward = self._forward

    def _predict(self, model: torch.nn.Module, arguments: Mapping[str, Any]) -> torch.Tensor:
        begins = self._timesteps is None or self._pipe.scheduler.timesteps is not self._timesteps
        if begins:
            check_untouched(model)
            self._architecture = _describe(model)
        assert self._architecture is not None
        tensors = tensors_from_call(self._architecture, arguments)
        sizes = call_sizes(self._architecture, tensors, widest_profile(self._architecture))
        if begins:
            self._begin(model)
        assert self._session is not None
        variant = self._plan.variants[self._calls] if self._calls < len(self._plan) else FULL
        if not self._session.holds_taps(sizes):
            variant = FULL
        self._calls += 1
        return self._session.run(variant, tensors, sizes)

    def _begin(self, model: torch.nn.Module) -> None:
        """A new generation: engines for the weights as they are now, a fresh plan, no taps."""
        state = (id(model), self.params.cache_branch_id, self.options, _version_of(model))
        if self._session is None or state != self._opened_with:
            self.close()
            self._session = self._open(model)
            self._opened_with = state
        self._session.forget_taps()
        self._timesteps = self._pipe.scheduler.timesteps
        # Pipelines that shorten the table, as image to image does, keep the number of calls here.
        calls = getattr(self._pipe, "_num_timesteps", None) or len(self._timesteps)
        self._plan = make_plan(self.params, min(calls, len(self._timesteps)))
        self._calls = 0

    def _open(self, model: torch.nn.Module) -> Session:
        device = next(model.parameters()).device.type
        target = Target(
            backend=backends.resolve(self.options.backend, device),
            device=device,
            store=Store(Path(self.options.store) if self.options.store else default_root()),
            build=self.options.build,
        )
        denoiser = from_model(model, name=self.name)
        return open_session(denoiser, self.params.cache_branch_id, target, progress=self._progress)


def call_sizes(
    architecture: Architecture, tensors: Mapping[str, torch.Tensor], profile: ShapeProfile
) -> dict[str, int]:
    """The size of each dynamic axis of one call, checked before anything is built for it.

    Raises:
        ShapeError: a size outside the profile, or two inputs that disagree about an axis.
    """
    specs = {spec.name: spec for spec in architecture.inputs}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    sizes = axis_sizes(specs, shapes)
    profile.check(sizes, size_multiple=architecture.size_multiple)
    for name, shape in shapes.items():
        if len(shape) != len(specs[name].shape) or shape != specs[name].resolve(sizes):
            raise ShapeError(f"{name} has shape {list(shape)}, the graph takes {specs[name]} at {sizes}")
    return sizes


def _restore(model: torch.nn.Module, forward: Any) -> None:
    if forward is None:
        model.__dict__.pop("forward", None)
    else:
        model.forward = forward


def _describe(model: torch.nn.Module) -> Architecture:
    return architecture_of(model, dtype=str(next(model.parameters()).dtype).removeprefix("torch."))


def _version_of(model: torch.nn.Module) -> tuple[tuple[tuple[int, int], ...], bytes]:
    """Changes whenever a weight is replaced or written to.

    torch counts writes, but not those through `.data`, which is how adapters are fused; so a few elements of each
    weight are read as well. A hash of everything would take seconds for each image of a large model.
    """
    parameters = [parameter.detach() for parameter in model.parameters()]
    samples = torch.cat([p.reshape(-1)[:: max(1, p.numel() // _SAMPLES)].float() for p in parameters])
    return tuple((p.data_ptr(), p._version) for p in parameters), samples.cpu().numpy().tobytes()
