"""ControlNet of diffusers: a copy of a U-Net's down-sampling half that an image steers (Zhang et al. 2023)."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models.architecture import (
    DOWN_RESIDUAL,
    MAX_IMAGES,
    MID_RESIDUAL,
    TAP_PREFIX,
    UNNAMED_SIZE,
    Architecture,
    CallForm,
    Steering,
    in_form,
    output_of,
    sides,
)
from deepcache_trt.models.families.family import Family
from deepcache_trt.models.families.unet import check_blocks, downsampling, residuals, rows
from deepcache_trt.models.families.unet_2d_condition import (
    added_conditions,
    condition_inputs,
    pooled_text,
    read_conditions,
)
from deepcache_trt.models.taps import Tap, Variant
from deepcache_trt.tensors import LATENT_PIXELS, TensorSpec

if TYPE_CHECKING:
    import torch

# How strongly each residual counts: `conditioning_scale`, and the scale of each depth in guess mode.
RESIDUAL_SCALES = "residual_scales"

# The embedded control image: the same at every step, so that a cached step need not compute it again.
_CONDITION = Tap(name="tap_condition", path="controlnet_cond_embedding", is_merged=True)


def _describe(model: Any, dtype: str, form: CallForm) -> Architecture:
    """What it adds to the residuals of a U-Net, which has inputs of the same names."""
    check_blocks(model)
    config = model.config
    embedded = len(config.conditioning_embedding_out_channels) - 1
    if 2**embedded != LATENT_PIXELS:
        raise UnsupportedError(
            f"a ControlNet whose control image is {2**embedded} times as large as its latents is not covered; "
            f"covered is {LATENT_PIXELS} times"
        )
    outputs = residuals(model, dtype)
    if config.global_pool_conditions:
        outputs = [TensorSpec(name=spec.name, dtype=dtype, shape=(*spec.shape[:2], 1, 1)) for spec in outputs]
    image = ("batch", config.conditioning_channels, f"{LATENT_PIXELS}*height", f"{LATENT_PIXELS}*width")
    return Architecture(
        inputs=(
            *condition_inputs(model, dtype, form),
            TensorSpec(name="controlnet_cond", dtype=dtype, shape=image),
            TensorSpec(name=RESIDUAL_SCALES, dtype="float32", shape=(len(outputs),)),
        ),
        outputs=tuple(outputs),
        call=_call,
        answer=_answer,
        read=_read,
        rows=rows(model),
        taps=(_CONDITION,),
        steering=_steering([spec.name for spec in outputs]),
        downsampling=downsampling(model),
        max_batch=MAX_IMAGES,
        pixels=LATENT_PIXELS,
        own_size=sides(UNNAMED_SIZE, LATENT_PIXELS),
    )


def _steering(names: Sequence[str]) -> Steering:
    """The last of a U-Net's taps is the mid block's own output, to which the last of `names` is added."""
    taps = tuple(f"{TAP_PREFIX}{k}" for k in range(len(names) - 1))
    return Steering(taps=taps, variant=partial(_variant, names, taps))


def _variant(names: Sequence[str], taps: Sequence[str], steered: Variant) -> Variant:
    """All residuals, or those that a U-Net's cached call reads: 0 … k of the list, up to the deepest tap k it takes."""
    if not steered.consumes:
        return Variant(name=steered.name, emits=(_CONDITION.name,))
    deepest = max(map(taps.index, steered.consumes))
    read = names if deepest == len(taps) - 1 else names[: deepest + 1]
    return Variant(name=steered.name, consumes=(_CONDITION.name,), outputs=tuple(read))


def _call(model: Any, tensors: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    down, mid = model(
        tensors["sample"],
        tensors["timestep"],
        tensors["encoder_hidden_states"],
        tensors["controlnet_cond"],
        class_labels=tensors.get("class_labels"),
        added_cond_kwargs=added_conditions(tensors) or None,
        return_dict=False,
    )
    names = [*(f"{DOWN_RESIDUAL}{i}" for i in range(len(down))), MID_RESIDUAL]
    scales = tensors[RESIDUAL_SCALES]
    return {name: residual * scales[i] for i, (name, residual) in enumerate(zip(names, (*down, mid), strict=True))}


def _read(architecture: Architecture, model: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    given = read_conditions(arguments)
    scale, guess_mode = given.pop("conditioning_scale", 1.0), given.pop("guess_mode", False)
    is_deeper = guess_mode and not model.config.global_pool_conditions
    return {**given, RESIDUAL_SCALES: _scales(scale, len(architecture.outputs), is_deeper)}


def _scales(scale: float, count: int, is_deeper: bool) -> "torch.Tensor":
    """[count] float32: how diffusers weighs the residuals of a ControlNet, the deepest most in guess mode."""
    import torch

    return torch.full([count], float(scale)) * (torch.logspace(-1, 0, count) if is_deeper else 1.0)


def _answer(model: Any, outputs: Mapping[str, "torch.Tensor"], arguments: Mapping[str, Any]) -> Any:
    down = tuple(outputs[f"{DOWN_RESIDUAL}{i}"] for i in range(len(outputs) - 1))
    output_class = output_of(model, "ControlNetOutput")
    return in_form(output_class(down_block_res_samples=down, mid_block_res_sample=outputs[MID_RESIDUAL]), arguments)


CONTROLNET = Family(
    library="diffusers",
    class_name="ControlNetModel",
    describe=_describe,
    follows_denoiser=True,
    form=lambda model, arguments: CallForm(pooled=pooled_text(model, arguments)),
    containers={"MultiControlNetModel": "nets"},
)
