"""Samplers: schedulers of diffusers by name, made from the config of a pipeline's own.

What a sampler approximates is the solution of one differential equation (Song et al. 2021), which a fine solve gives.
"""

import copy
import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from deepcache_trt.documents import parsed
from deepcache_trt.errors import DeepCacheError, UnknownNameError, did_you_mean, first_line

_SUFFIX = "Scheduler"

# The first-order solver without noise, and steps of which it needs no more: one for each timestep of most models.
_FINEST, _FINEST_STEPS = "DDIMScheduler", 1000

# Enough for every solver to take a step of its own kind.
_FEW_STEPS = 6


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A scheduler that can be made from the config of another.

    Attributes:
        class_name: in diffusers.
        options: of its own, by name, in place of those of the config.
    """

    class_name: str
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """For a person, as it can be asked for, e.g. "UniPCMultistep,timestep_spacing=trailing"."""
        return ",".join([_short(self.class_name), *(f"{name}={_text(value)}" for name, value in self.options)])

    def scheduler(self, own: Any) -> Any:
        """The scheduler, with the config of a pipeline's own.

        Raises:
            DeepCacheError: diffusers cannot make it of that config.
        """
        scheduler_class = _compatible(own)[self.class_name]
        try:
            return scheduler_class.from_config(own.config, **dict(self.options))
        except (ImportError, ValueError, TypeError, NotImplementedError) as error:
            raise DeepCacheError(
                f"{self.name} cannot be made from the config of {type(own).__name__}: {first_line(error)}; choose "
                "another scheduler, or other options"
            ) from error


def sampler_of(own: Any) -> Sampler:
    """A pipeline's own."""
    return Sampler(class_name=type(own).__name__)


def parse_sampler(text: str, own: Any) -> Sampler:
    """The sampler that a text names, made once to see that it can be.

    Args:
        text: the name of a class, with or without "Scheduler", in any case; the beginning of one is enough where no
            other begins so. Options may follow, as "unipc,timestep_spacing=trailing,use_karras_sigmas=true".
        own: the scheduler of the pipeline.

    Raises:
        UnknownNameError: none that the config can be given to has that name, or it has no such option.
        DeepCacheError: an option without a value, or diffusers cannot make it.
    """
    wanted, *options = text.split(",")
    classes = _compatible(own)
    class_name = _find(wanted.strip(), list(classes))
    known = [name for name in inspect.signature(classes[class_name].__init__).parameters if name != "self"]
    found = Sampler(class_name=class_name, options=tuple(_option(each, class_name, known) for each in options))
    found.scheduler(own)
    return found


def finest(own: Any) -> tuple[Any, int]:
    """A scheduler, and with how many steps it solves so finely that more would change nothing to speak of.

    That is DDIM with 1,000 steps down to no noise where the pipeline's scheduler can be changed to it, and else its own
    with a step for each timestep of training.
    """
    steps = min(_FINEST_STEPS, own.config.num_train_timesteps)
    scheduler_class = _compatible(own).get(_FINEST)
    if scheduler_class is None:
        return type(own).from_config(own.config), steps
    # Left to the class's own default, a config that does not speak of it would clip latents.
    clip = own.config.get("clip_sample", False)
    return scheduler_class.from_config(
        own.config, timestep_spacing="trailing", set_alpha_to_one=True, clip_sample=clip
    ), steps


def draws_noise(scheduler: Any) -> bool:
    """Whether where a scheduler leads depends on more than the first noise: it has no solution to be compared with.

    Args:
        scheduler: it stays as it is.
    """
    with torch.random.fork_rng(devices=[]):
        first, second = (_end(copy.deepcopy(scheduler), seed) for seed in (0, 1))
    return not torch.allclose(first, second, equal_nan=True)


def _end(scheduler: Any, seed: int) -> torch.Tensor:
    """[1, 1, 8, 8]: where a few steps lead from ones, of a model that answers with half of what it is given."""
    torch.manual_seed(seed)  # for those that draw past the generator
    takes = inspect.signature(scheduler.step).parameters
    generator = {"generator": torch.Generator().manual_seed(seed)} if "generator" in takes else {}
    scheduler.set_timesteps(_FEW_STEPS)
    sample = torch.ones(1, 1, 8, 8) * getattr(scheduler, "init_noise_sigma", 1.0)
    scale = getattr(scheduler, "scale_model_input", lambda sample, t: sample)
    for t in scheduler.timesteps:
        answer = scale(sample, t) / 2
        sample = scheduler.step(answer, t, sample, **generator).prev_sample
    return sample


def in_words(scheduler: Any, steps: int) -> str:
    """As "DDIM, 1,000 steps"."""
    return f"{_short(type(scheduler).__name__)}, {steps:,} step{'' if steps == 1 else 's'}"


def _compatible(own: Any) -> dict[str, Any]:
    """The classes that take the config of a scheduler, by name, its own first."""
    return {each.__name__: each for each in [type(own), *sorted(own.compatibles, key=lambda each: each.__name__)]}


def _find(wanted: str, known: Sequence[str]) -> str:
    short = {_short(name).lower(): name for name in known}
    name = _short(wanted).lower()
    if name in short:
        return short[name]
    begin = [each for each in short if name and each.startswith(name)]
    if len(begin) == 1:
        return short[begin[0]]
    beginnings = [each[: len(name)] for each in short]
    names = ", ".join(_short(short[each]) for each in begin or short)
    if begin:
        raise UnknownNameError(f"several schedulers begin with {wanted!r}: {names}; name one of them")
    meant = did_you_mean(name, [*short, *beginnings]) if name else ""
    raise UnknownNameError(f"unknown scheduler {wanted!r}{meant}; there are {names}")


def _option(text: str, class_name: str, known: list[str]) -> tuple[str, Any]:
    name, given, value = text.strip().partition("=")
    if not given:
        raise DeepCacheError(f"option {name!r} of {class_name} has no value; write it as {name}=VALUE")
    if name not in known:
        raise UnknownNameError(
            f"{class_name} has no option {name!r}{did_you_mean(name, known)}; it has {', '.join(known)}"
        )
    try:
        return name, parsed(value)
    except ValueError:  # a word
        return name, value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _short(class_name: str) -> str:
    return class_name[: -len(_SUFFIX)] if class_name.lower().endswith(_SUFFIX.lower()) else class_name
