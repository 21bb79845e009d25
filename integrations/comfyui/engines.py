"""What stands for the U-Net of a MODEL of ComfyUI: engines, cached by a policy.

ComfyUI calls the U-Net once for each set of prompts that fit into one batch, and some samplers call it more than once
in a step. All calls of one sampling with the same prompts are a generation, which has its own cached features.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from deepcache_trt.errors import UnsupportedError
from deepcache_trt.pipelines.cached_denoiser import CachedDenoiser
from deepcache_trt.pipelines.engine_options import EngineOptions
from deepcache_trt.progress import Progress
from deepcache_trt.runtime.generation import Resting
from deepcache_trt.runtime.policies import Policy

from .layout import diffusers_config, empty_unet, give_weights, text_and_sizes

# The name of what is installed, among the wrappers of a MODEL.
KEY = "deepcache_trt"

# The models whose U-Net is called as diffusers calls its own.
COVERED = ("BaseModel", "SDXL")

_CURE = "bypass 'Apply DeepCache engines' for this image"

# Samplers of higher order call the model up to so many times a step; a plan that is longer than a sampling is no harm.
_CALLS_PER_STEP = 4

_HARMLESS = {"crossattn_controlnet"}  # is the ControlNet's; the U-Net takes no notice of it


@dataclass
class _Scheduler:
    """The steps of one sampling: another object for each."""

    timesteps: range = field(default_factory=lambda: range(0))


@dataclass
class _Pipe:
    """What the denoiser of a pipeline is asked about."""

    unet: Any
    config: Mapping[str, Any]
    scheduler: _Scheduler = field(default_factory=_Scheduler)

    @property
    def components(self) -> Mapping[str, Any]:
        return {"unet": self.unet}


@dataclass
class _Prompts:
    """The generation of the calls with the same prompts, while others have their turn."""

    evaluation: Any  # of the sampler, that the last of its calls was part of
    resting: Resting | None = None
    is_ambiguous: bool = False  # it is called several times in one evaluation, as for the tiles of an image


class EngineUNet:
    """Runs what ComfyUI's `UNetModel.forward` is called with, as a wrapper of it."""

    def __init__(self, model: Any, policy: Policy, options: EngineOptions, *, progress: Progress | None = None) -> None:
        """Check the model; engines are opened, and built where there are none, at the first call.

        Args:
            model: ComfyUI's `BaseModel`, as `MODEL.model`.
            policy: of uniform intervals, since how often a sampler calls the model is not known before.
            options: which engines.
            progress: told about each stage of a build.

        Raises:
            UnsupportedError: the model is none of those that are covered.
        """
        kind = type(model).__name__
        if kind not in COVERED:
            raise UnsupportedError(f"the MODEL is {kind}, and engines are for SD 1.x, SD 2.x and SDXL; {_CURE}")
        self._model = model
        self._unet = empty_unet(diffusers_config(model.model_config.unet_config))
        self._without_weights = self._unet.state_dict()
        self._pipe: Any = _Pipe(self._unet, config={"_name_or_path": f"ComfyUI's {kind}"})
        self._open: Callable[[], CachedDenoiser] = lambda: CachedDenoiser(
            self._pipe, policy, options, progress=progress
        )
        self._denoiser: CachedDenoiser | None = None
        self._sigmas: Any = None  # the table of the sampling that is going on
        self._prompts: dict[Any, _Prompts] = {}
        self._now: Any = None  # the prompts of the last call

    @property
    def denoiser(self) -> CachedDenoiser | None:
        """What runs the calls, since the first one."""
        return self._denoiser

    def __call__(
        self,
        executor: Any,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        context: torch.Tensor | None = None,
        y: torch.Tensor | None = None,
        control: Mapping[str, Any] | None = None,
        transformer_options: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> torch.Tensor:
        """The prediction for one batch.

        Args:
            executor: ComfyUI's, whose `class_obj` is the `UNetModel`.
            x: [batch, channels, height, width], scaled noisy latents.
            timesteps: [batch], equal.
            context: [batch, tokens, channels].
            y: SDXL's vector, see `text_and_sizes`.
            control: residuals of a ControlNet, as lists in the order of its blocks.
            transformer_options: of this call.
            others: what the model takes beside.

        Returns:
            [batch, channels, height, width].

        Raises:
            UnsupportedError: anything of it changes the prediction in a way that engines do not.
        """
        asked = transformer_options or {}
        self._check(asked, others)
        self._turn(executor.class_obj, x, asked)
        arguments: dict[str, Any] = {"sample": x, "timestep": timesteps, "encoder_hidden_states": context}
        if y is not None:
            text, sizes = text_and_sizes(y)
            arguments["added_cond_kwargs"] = {"text_embeds": text, "time_ids": sizes}
        arguments |= _residuals(control)
        predicted: torch.Tensor = self._unet(**arguments, return_dict=False)[0]
        return predicted

    def sampling(self, executor: Any, *arguments: Any, **named: Any) -> Any:
        """ComfyUI's sampling, after which it may move and free the weights of the MODEL: none is held any more.

        Raises:
            BackendError: what engines predicted last is NaN, infinite or nothing at all.
        """
        try:
            sampled = executor(*arguments, **named)
            if self._denoiser is not None:
                self._denoiser.check_made()
            return sampled
        finally:
            self._rest()

    def _check(self, asked: Mapping[str, Any], others: Mapping[str, Any]) -> None:
        check_options(asked, self._model)
        for name, value in others.items():
            if value is not None and name not in _HARMLESS:
                raise UnsupportedError(f"the U-Net is given {name}, which engines do not take; {_CURE}")

    def _turn(self, theirs: Any, x: torch.Tensor, asked: Mapping[str, Any]) -> None:
        """The calls with these prompts are the ones that go on, or begin, now."""
        sigmas = asked.get("sample_sigmas")
        if self._denoiser is None or sigmas is None or sigmas is not self._sigmas:
            self._begin(theirs, x, sigmas)
        assert self._denoiser is not None
        key = tuple(asked.get("uuids", ())) or None
        evaluation = asked.get("sigmas")
        if self._now in self._prompts:
            self._prompts[self._now].resting = self._denoiser.take_turns(None)
        known = self._prompts.setdefault(key, _Prompts(evaluation=None))
        known.is_ambiguous |= key is None or evaluation is None or evaluation is known.evaluation
        known.evaluation = evaluation
        self._denoiser.take_turns(None if known.is_ambiguous else known.resting)
        known.resting, self._now = None, key

    def _begin(self, theirs: Any, x: torch.Tensor, sigmas: torch.Tensor | None) -> None:
        """Another sampling, with the weights as its LoRAs have made them."""
        self._check_weights(theirs, x)
        give_weights(self._unet, theirs.state_dict(), x.dtype)
        if self._denoiser is None:
            self._denoiser = self._open()
        self._denoiser.take_turns(None)
        self._denoiser.install()
        steps = 0 if sigmas is None else len(sigmas) - 1
        self._pipe.scheduler.timesteps = range(_CALLS_PER_STEP * steps)
        self._sigmas, self._now = sigmas, None
        self._prompts.clear()

    def _rest(self) -> None:
        if self._denoiser is not None:
            self._denoiser.take_turns(None)
            self._denoiser.rest()
        self._unet.load_state_dict(self._without_weights, assign=True)
        self._sigmas = self._now = None
        self._prompts.clear()

    def _check_weights(self, theirs: Any, x: torch.Tensor) -> None:
        if type(theirs).__name__ != "UNetModel":
            raise UnsupportedError(
                f"the U-Net of the MODEL is {type(theirs).__name__} now, which another node has put there; {_CURE}"
            )
        is_partial = getattr(self._model, "model_lowvram", False)
        if is_partial or any(weight.device != x.device for weight in theirs.parameters()):
            raise UnsupportedError(
                f"ComfyUI has only a part of the MODEL's weights on {x.device}, and engines are made of all of them; "
                f"start it with --highvram, or {_CURE}"
            )


def check_options(asked: Mapping[str, Any], model: Any) -> None:
    """Raise UnsupportedError where patches, wrappers or hooks change what a U-Net computes.

    Args:
        asked: the `transformer_options` of a MODEL or of a call.
        model: ComfyUI's `BaseModel`.
    """
    for group in ("patches", "patches_replace"):
        for name, patches in asked.get(group, {}).items():
            if patches:
                raise UnsupportedError(
                    f"another node has set {name} of the MODEL, which changes the inside of its U-Net and would have "
                    f"no effect on engines; take that node away, or {_CURE}"
                )
    for key in asked.get("wrappers", {}).get("diffusion_model", {}):
        if key != KEY:
            raise UnsupportedError(
                f"another node wraps the U-Net of the MODEL ({key or 'without a name'}), and engines stand for all of "
                f"it; take that node away, or {_CURE}"
            )
    patcher = getattr(model, "current_patcher", None)
    if getattr(patcher, "current_hooks", None) is not None:
        raise UnsupportedError(f"hooks change the weights of the MODEL between two prompts; take them away, or {_CURE}")
    for path in getattr(patcher, "object_patches", {}):
        if path.startswith("diffusion_model"):
            raise UnsupportedError(
                f"another node has replaced {path} of the MODEL, as compiling does; take that node away, or {_CURE}"
            )


def _residuals(control: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a ControlNet adds, as diffusers' U-Nets take it."""
    if control is None:
        return {}
    if any(each is not None for each in control.get("input", ())):
        raise UnsupportedError(f"T2I adapters add to the inside of the U-Net, which engines do not take; {_CURE}")
    skips, middle = control.get("output", ()), control.get("middle", ())
    if not skips and not middle:
        return {}
    if len(middle) != 1 or middle[0] is None or any(each is None for each in skips):
        raise UnsupportedError(f"the ControlNet leaves out some of the blocks, which engines want all of; {_CURE}")
    return {"down_block_additional_residuals": tuple(skips), "mid_block_additional_residual": middle[0]}
