"""What is needed of the objects of diffusers that are given over: protocols, so that it is said what is relied on.

diffusers' own classes have more. What only some of them have, as a guidance scale, is asked for by `getattr`.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch


class Scheduler(Protocol):
    """A scheduler: a table of timesteps, and what makes the next sample of an output of the model."""

    timesteps: "torch.Tensor"  # [n], in the order in which they are gone through

    def step(self, model_output: "torch.Tensor", timestep: Any, sample: "torch.Tensor", **arguments: Any) -> Any:
        """The next sample, in a class of outputs or with `return_dict=False` in a tuple."""
        ...

    def add_noise(self, original_samples: "torch.Tensor", noise: "torch.Tensor", timesteps: "torch.Tensor") -> Any:
        """The samples, as noisy as they are at these timesteps."""
        ...


class Model(Protocol):
    """A model with a config: a denoiser, a VAE, a text encoder or a ControlNet."""

    config: Any

    def parameters(self) -> Iterator["torch.nn.Parameter"]:
        """All of its weights."""
        ...

    def get_submodule(self, target: str) -> Any:
        """The sub-module at a path; "" is the model."""
        ...

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What a call of it runs."""
        ...


class Pipeline(Protocol):
    """A pipeline around a denoiser, which it has as `unet` or `transformer`."""

    scheduler: Scheduler
    config: Mapping[str, Any]

    @property
    def components(self) -> Mapping[str, Any]:
        """Its models and what else it is made of, by their names."""
        ...

    def progress_bar(self, iterable: Any = None, total: int | None = None) -> Any:
        """What it shows its steps with."""
        ...
