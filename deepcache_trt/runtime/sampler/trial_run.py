"""A trial run of a diffusers scheduler: on the CPU, on a copy, watched for what no table could follow."""

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from deepcache_trt.errors import first_line
from deepcache_trt.foreign import Scheduler

# What a pipeline passes to `step` at every call alike; any other argument may change from call to call.
SAME_AT_EVERY_CALL = {"eta", "use_clipped_model_output"}

_CLIPPING = {
    *(torch.clamp, torch.clip, torch.quantile),
    *(torch.Tensor.clamp, torch.Tensor.clamp_, torch.Tensor.clip, torch.Tensor.clip_, torch.Tensor.quantile),
}
_OTHER_NOISE = {
    *(torch.rand, torch.rand_like, torch.randn_like, torch.randint, torch.normal, torch.bernoulli, torch.multinomial),
    *(torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.multinomial, torch.Tensor.bernoulli),
}


class RefusedError(Exception):
    """There is no table; becomes `NoTable`."""


class Symbols(TorchFunctionMode):
    """While it is entered, what the scheduler draws from `generator` is a symbol; active in this thread alone."""

    def __init__(self, generator: torch.Generator, size: int) -> None:
        super().__init__()
        self._generator = generator
        self._size = size
        self.expected = 0  # the index of the symbol to hand out
        self.drawn: torch.dtype | None = None  # set by a draw

    def symbol(self, index: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        """The basis vector of a number."""
        # [1, size, 1, 1]: some schedulers read the number of channels, or want three axes
        vector = torch.zeros(1, self._size, 1, 1, dtype=dtype)
        vector[0, index] = 1
        return vector

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.randn:
            if kwargs.get("generator") is not self._generator:
                raise RefusedError("it draws noise past the caller's generator")
            if self.drawn is not None or list(args[0]) != [1, self._size, 1, 1]:
                raise RefusedError("it draws more noise in a call than one tensor like the sample")
            self.drawn = kwargs.get("dtype") or torch.get_default_dtype()
            return self.symbol(self.expected, self.drawn)
        if func in _OTHER_NOISE:
            raise RefusedError(f"it draws random numbers with {func.__name__}")
        if func in _CLIPPING and args[0].numel() >= self._size:
            raise RefusedError(f"it clips the image that it predicts ({func.__name__})")
        return func(*args, **kwargs)


def accepted_arguments(scheduler: Scheduler, step_arguments: Mapping[str, object]) -> dict[str, object]:
    """The arguments that matter to `step`, if it can be called as pipelines call it."""
    name = type(scheduler).__name__
    if not hasattr(scheduler, "step"):
        raise RefusedError("it has no step")
    if "step" in vars(scheduler) or "scale_model_input" in vars(scheduler):
        raise RefusedError(f"its methods are not those of {name}: they were replaced on the object")
    parameters = list(inspect.signature(scheduler.step).parameters)
    if parameters[:3] != ["model_output", "timestep", "sample"]:
        raise RefusedError(f"its step takes {', '.join(parameters[:4])}, not model_output, timestep, sample")
    accepted = {}
    for argument, value in step_arguments.items():
        if argument in SAME_AT_EVERY_CALL:
            accepted[argument] = value
        elif argument not in {"generator", "return_dict"}:
            raise RefusedError(f"its step is given {argument}, which may change from call to call")
    return accepted


class TrialRun:
    """The calls of a pipeline's loop on a copy of a scheduler, on the CPU, with a generator of its own."""

    def __init__(self, scheduler: Scheduler, arguments: dict[str, object]) -> None:
        self._scheduler: Any = self._call(copy.deepcopy, scheduler)
        for name, value in vars(self._scheduler).items():
            if isinstance(value, torch.Tensor):
                setattr(self._scheduler, name, value.cpu())
        self.generator = torch.Generator().manual_seed(0)
        takes_generator = "generator" in inspect.signature(scheduler.step).parameters
        self._arguments = arguments | ({"generator": self.generator} if takes_generator else {})
        # SD3's schedulers scale nothing, and its pipelines do not ask them to
        self._scale = getattr(self._scheduler, "scale_model_input", lambda sample, t: sample)

    def scale(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """`scale_model_input`."""
        return self._call(self._scale, sample, timestep)

    def step(self, output: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        """The next sample."""
        step = self._scheduler.step
        return self._call(lambda: step(output, timestep, sample, return_dict=False, **self._arguments)[0])

    def add_noise(self, image: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """The image, as noisy as it is at a timestep."""
        return self._call(lambda: self._scheduler.add_noise(image, noise, timestep))

    @staticmethod
    def _call(function: Any, *args: Any) -> torch.Tensor:
        try:
            result: torch.Tensor = function(*args)
        except RefusedError:
            raise
        except Exception as error:  # whatever a foreign scheduler raises, its own loop may do better
            raise RefusedError(f"it fails on a trial run: {first_line(error)}") from error
        return result
