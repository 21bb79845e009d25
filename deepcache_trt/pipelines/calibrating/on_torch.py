"""A denoiser in PyTorch, cached as it will be on engines, for whoever looks at its activations."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from deepcache_trt.builder.component import Component
from deepcache_trt.builder.shared_session import SharedSession
from deepcache_trt.engines import backends
from deepcache_trt.foreign import Model, Pipeline
from deepcache_trt.pipelines.cached_denoiser import CachedDenoiser, denoiser_of
from deepcache_trt.pipelines.calibrating.drawing import quantized_as_drawn
from deepcache_trt.pipelines.engine_options import EngineOptions
from deepcache_trt.runtime.policies import Policy
from deepcache_trt.runtime.session import Session


def quantized_component(pipe: Pipeline, component: Component, policy: Policy, options: EngineOptions) -> Component:
    """A pipeline's denoiser, quantized as the options say; its activations are observed when they are asked for.

    Args:
        pipe: that it is of.
        component: the denoiser, with adapters merged.
        policy: how it is cached.
        options: which have a precision.

    Raises:
        DeepCacheError: there are no prompts to draw.
        UnknownNameError: the policy wants a tap that the denoiser lacks.
    """
    within = partial(on_torch, component=component, policy=policy, store=options.store)
    return quantized_as_drawn(pipe, component, options, policy=policy, within=within)


@contextmanager
def on_torch(
    pipe: Pipeline, *, component: Component, policy: Policy, store: Path | str | None
) -> Iterator[Mapping[str, torch.Tensor]]:
    """Within it, a pipeline's denoiser runs in PyTorch on the very tensors of a component, cached by a policy.

    It gives these as a state dict. Every call is run anew, on a GPU too: whoever looks at its layers, or stands for
    them, sees each.
    """
    device = denoiser_of(pipe).device.type
    reference = next(each for each in backends.every() if each.device == device and each.runs_model and each.bit_exact)
    options = EngineOptions(backend=reference.name, store=store, components=())
    denoiser = _OnTorch(pipe, policy, options, component)
    try:
        with denoiser.installed():
            yield dict(component.tensors())
    finally:
        denoiser.close()


class _OnTorch(CachedDenoiser):
    """A denoiser whose engines are made of a component that is given."""

    def __init__(self, pipe: Pipeline, policy: Policy, options: EngineOptions, component: Component) -> None:
        super().__init__(pipe, policy, options, name=component.name)
        self._given = component
        self._opened: SharedSession | None = None

    def close(self) -> None:
        """Let go of what is traced of the model, which must not be held when its weights are dropped."""
        super().close()
        self._opened = None

    def _component_of(self, model: Model) -> Component:
        return self._given

    def _session_for(self, model: Model, tensors: Mapping[str, torch.Tensor], sizes: Mapping[str, int]) -> Session:
        """One of its own: those that are open elsewhere may be of other copies of these weights."""
        if self._opened is None:
            self._opened = self._open(model, next(iter(tensors.values())).device, sizes)
            for engine in self._opened.session.engines.values():
                engine.capturable = False
        self._is_checked = True
        return self._opened.session
