"""ControlNet of diffusers: a copy of a U-Net's down-sampling half that an image steers (Zhang et al. 2023)."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models.denoisers import added_conditions, check_blocks, condition_inputs, residuals
from deepcache_trt.models.part import DOWN_RESIDUAL, MAX_IMAGES, MID_RESIDUAL, Architecture
from deepcache_trt.models.taps import Tap, Variant
from deepcache_trt.tensors import TensorSpec

if TYPE_CHECKING:
    import torch

# Pixels of a control image for each latent.
_PIXELS = 8

# How strongly each residual counts: `conditioning_scale`, and the scale of each depth in guess mode.
RESIDUAL_SCALES = "residual_scales"

# The embedded control image: the same at every step, so that a cached step need not compute it again.
_CONDITION = Tap(name="tap_condition", path="controlnet_cond_embedding")


def controlnet(model: Any, dtype: str) -> Architecture:
    """ControlNetModel: what it adds to the residuals of a U-Net, which has inputs of the same names."""
    check_blocks(model)
    config = model.config
    embedded = len(config.conditioning_embedding_out_channels) - 1
    if 2**embedded != _PIXELS:
        raise UnsupportedError(
            f"a ControlNet whose control image is {2**embedded} times as large as its latents is not covered; "
            f"covered is {_PIXELS} times"
        )
    outputs = residuals(model, dtype)
    if config.global_pool_conditions:
        outputs = [TensorSpec(name=spec.name, dtype=dtype, shape=(*spec.shape[:2], 1, 1)) for spec in outputs]
    image = ("batch", config.conditioning_channels, f"{_PIXELS}*height", f"{_PIXELS}*width")
    return Architecture(
        inputs=(
            *condition_inputs(model, dtype),
            TensorSpec(name="controlnet_cond", dtype=dtype, shape=image),
            TensorSpec(name=RESIDUAL_SCALES, dtype="float32", shape=(len(outputs),)),
        ),
        outputs=tuple(outputs),
        taps=(_CONDITION,),
        variants=partial(_variants, [spec.name for spec in outputs]),
        size_multiple=2 ** sum(bool(block.downsamplers) for block in model.down_blocks),
        max_batch=MAX_IMAGES,
        call=_call,
    )


def _variants(names: Sequence[str], branch: int) -> tuple[Variant, ...]:
    """All residuals, and those that a U-Net's cached step at this branch reads: 0 … k of the list.

    The last branch's tap is the mid block's own output, to which the last of `names` is added.
    """
    read = names if branch == len(names) - 2 else names[: branch + 1]
    return (
        Variant(name="full", emits=(_CONDITION.name,)),
        Variant(name="shallow", consumes=(_CONDITION.name,), outputs=tuple(read)),
    )


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
