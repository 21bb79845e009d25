"""A DiT on engines, and the same in plain PyTorch with its taps supplied and recorded by hooks."""

import functools

import torch

from deepcache_trt.builder.component import Component, from_architecture
from deepcache_trt.export import parity
from deepcache_trt.models.architecture import OUTPUT
from deepcache_trt.runtime.policies import Policy
from tests import tiny

BATCH = 2
Tensors = dict[str, torch.Tensor]


@functools.cache
def dit() -> Component:
    """A DiT of three blocks that predicts the noise alone."""
    model_class, config = tiny.ARCHITECTURES["dit"]
    own = {**config, "out_channels": config["in_channels"], "num_layers": 3}
    return from_architecture(model_class, own, name="tiny", part="transformer", dtype="float32")


class Hooked:
    """The model in plain PyTorch, its taps supplied and recorded by hooks."""

    def __init__(self, component: Component, policy: Policy) -> None:
        self._component = component
        variants = policy.variants([tap.name for tap in component.architecture.taps])
        self._variants = {variant.name: variant for variant in variants}
        self._taps: Tensors = {}

    def __call__(self, variant: str, tensors: Tensors) -> torch.Tensor:
        component = self._component
        chosen = self._variants[variant]
        given = parity.run_model(component.module(), component.architecture, chosen, {**tensors, **self._taps})
        self._taps |= {name: given[name] for name in chosen.emits}
        return given[OUTPUT]


def starting() -> torch.Tensor:
    side = dit().architecture.fixed_size or 0
    return torch.randn(BATCH, 4, side, side, generator=torch.Generator().manual_seed(0))


LABELS = torch.tensor([1, 3])


def called(sample: torch.Tensor, timestep: torch.Tensor) -> Tensors:
    return {"sample": sample, "timestep": timestep.expand(BATCH), "class_labels": LABELS}
