"""UNet2DConditionModel: Stable Diffusion 1.5, 2.1, XL and their kin (Rombach et al. 2022, Podell et al. 2023)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models.architecture import (
    AS_CONFIGURED,
    DOWN_RESIDUAL,
    MAX_IMAGES,
    MID_RESIDUAL,
    OUTPUT,
    UNNAMED_SIZE,
    Architecture,
    CallForm,
    answer_as,
    prediction,
    sides,
)
from deepcache_trt.models.families.family import Family
from deepcache_trt.models.families.unet import (
    check_blocks,
    class_labels,
    cross_attention_dim,
    downsampling,
    residuals,
    rows,
    unet_taps,
)
from deepcache_trt.models.ip_adapter import image_shapes, ip_adapter_call, ip_adapter_inputs, ip_adapter_tensors
from deepcache_trt.models.processors import image_projections
from deepcache_trt.tensors import LATENT_PIXELS, TensorSpec

if TYPE_CHECKING:
    import torch

# What a U-Net is called with that a ControlNet steers.
_DOWN, _MID = "down_block_additional_residuals", "mid_block_additional_residual"

_CURES = {
    "attention_mask": "leave it out; the prompt can be shortened instead",
    "encoder_attention_mask": "leave it out; the prompt can be shortened instead",
    _DOWN: f"without {_MID} diffusers takes them for those of a T2I-adapter; "
    "run T2I-adapter pipelines without the cache for now",
    _MID: f"diffusers ignores it without {_DOWN}: give both, or run this pipeline without the cache",
    "down_intrablock_additional_residuals": "call pipe.disable_cache() to run a T2I-adapter in plain diffusers",
    "image_embeds": "load the IP-Adapter that they are for",
    "ip_adapter_masks": "leave them out, or call pipe.disable_cache() for this image",
}


def _describe(model: Any, dtype: str, form: CallForm) -> Architecture:
    check_blocks(model)
    plain = uncached(model, dtype, form)
    inputs = [*plain.inputs]
    taps = unet_taps(model)
    if form.controlled:
        added = residuals(model, dtype)
        assert len(added) == len(taps) + 1, "a tap for each residual, and the mid block's"
        inputs += added
        taps = *taps[:-1], replace(taps[-1], is_merged=True)  # a residual is added to what the mid block gives
    inputs += ip_adapter_inputs(model, dtype, form.images)
    return replace(plain, inputs=tuple(inputs), taps=taps)


def uncached(model: Any, dtype: str, form: CallForm = AS_CONFIGURED) -> Architecture:
    """A model of any blocks without taps: what is refused for caching can still be counted."""
    config = model.config
    inputs = condition_inputs(model, dtype, form)
    if config.time_cond_proj_dim is not None:
        inputs.append(TensorSpec(name="timestep_cond", dtype=dtype, shape=("batch", config.time_cond_proj_dim)))
    return Architecture(
        inputs=tuple(inputs),
        outputs=prediction(dtype, config.out_channels, "height", "width"),
        call=_call,
        answer=answer_as("UNet2DConditionOutput"),
        read=_read,
        rows=rows(model),
        downsampling=downsampling(model),
        max_batch=MAX_IMAGES,
        pixels=LATENT_PIXELS,
        own_size=sides(config.sample_size or UNNAMED_SIZE, LATENT_PIXELS),
        cures=_CURES,
    )


def condition_inputs(model: Any, dtype: str, form: CallForm) -> list[TensorSpec]:
    """What a U-Net with text, or a ControlNet for it, is called with."""
    config = model.config
    has_other_images = config.encoder_hid_dim_type is not None and not image_projections(model)
    if has_other_images or config.addition_embed_type not in (None, "text_time"):
        raise UnsupportedError(
            f"encoder_hid_dim_type={config.encoder_hid_dim_type!r} and addition_embed_type="
            f"{config.addition_embed_type!r} are not covered; covered are None and 'text_time', with IP-Adapters or not"
        )
    text = ("batch", "sequence", cross_attention_dim(config))
    inputs = [
        TensorSpec(name="sample", dtype=dtype, shape=("batch", config.in_channels, "height", "width")),
        TensorSpec(name="timestep", dtype="float32", shape=(1,)),
        TensorSpec(name="encoder_hidden_states", dtype=dtype, shape=text),
    ]
    if config.addition_embed_type == "text_time":
        # SDXL concatenates these with float32 embeddings: as float32 inputs the graph needs no mixed Concat.
        width = form.pooled or _pooled_width(model)
        time_ids = (model.add_embedding.linear_1.in_features - width) // config.addition_time_embed_dim
        inputs.append(TensorSpec(name="text_embeds", dtype="float32", shape=("batch", width)))
        inputs.append(TensorSpec(name="time_ids", dtype="float32", shape=("batch", time_ids)))
    return [*inputs, *class_labels(model, dtype)]


def added_conditions(tensors: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    """What diffusers passes as `added_cond_kwargs`."""
    return {name: tensors[name] for name in ("text_embeds", "time_ids") if name in tensors}


def _pooled_width(model: Any) -> int:
    """How wide the pooled text is, of which a config knows no more than the sum with the embedded time ids.

    There are six, as in SDXL, or five, as in its refiner, whose one text encoder is as wide as what it attends to.
    """
    width, of_each = model.add_embedding.linear_1.in_features, model.config.addition_time_embed_dim
    count = 5 if width - 5 * of_each == cross_attention_dim(model.config) else 6
    return int(width - count * of_each)


def pooled_text(model: Any, arguments: Mapping[str, Any]) -> int | None:
    """The width of the pooled text of a call; None where it is what the config suggests."""
    text = (arguments.get("added_cond_kwargs") or {}).get("text_embeds")
    if text is None or model.config.addition_embed_type != "text_time":
        return None
    width = int(text.shape[-1])
    return None if width == _pooled_width(model) else width


def _call(model: Any, tensors: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    count = sum(name.startswith(DOWN_RESIDUAL) for name in tensors)
    with ip_adapter_call(model, tensors) as images:
        (predicted,) = model(
            tensors["sample"],
            tensors["timestep"],
            tensors["encoder_hidden_states"],
            class_labels=tensors.get("class_labels"),
            timestep_cond=tensors.get("timestep_cond"),
            added_cond_kwargs={**added_conditions(tensors), **images} or None,
            down_block_additional_residuals=tuple(tensors[f"{DOWN_RESIDUAL}{i}"] for i in range(count)) or None,
            mid_block_additional_residual=tensors.get(MID_RESIDUAL),
            return_dict=False,
        )
    return {OUTPUT: predicted}


def _form(model: Any, arguments: Mapping[str, Any]) -> CallForm:
    pooled = pooled_text(model, arguments)
    return CallForm(controlled=_is_controlled(arguments), images=image_shapes(arguments), pooled=pooled)


def _is_controlled(arguments: Mapping[str, Any]) -> bool:
    """Whether the call has the residuals of a ControlNet, by the rule of diffusers: both kinds."""
    return arguments.get(_DOWN) is not None and arguments.get(_MID) is not None


def _read(architecture: Architecture, model: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    given = read_conditions(arguments)
    if image_projections(model):
        given.update(ip_adapter_tensors(model, given.pop("image_embeds", None)))
    if architecture.controlled and _is_controlled(given):
        given.update(_named_residuals(given.pop(_DOWN), given.pop(_MID), architecture, type(model).__name__))
    return given


def read_conditions(arguments: dict[str, Any]) -> dict[str, Any]:
    """The conditions in `added_cond_kwargs` by their own names, and masks where they are easily overlooked."""
    given = {**arguments, **(arguments.get("added_cond_kwargs") or {})}
    given.pop("added_cond_kwargs", None)
    attention = given.get("cross_attention_kwargs")
    if isinstance(attention, Mapping):
        given = {**{name: attention[name] for name in ("ip_adapter_masks",) if name in attention}, **given}
    return given


def _named_residuals(down: Sequence[Any], mid: Any, architecture: Architecture, kind: str) -> dict[str, Any]:
    expected = sum(spec.name.startswith(DOWN_RESIDUAL) for spec in architecture.inputs)
    if len(down) != expected:
        raise UnsupportedError(
            f"{_DOWN} has {len(down)} tensors, {kind} has {expected} residuals; "
            f"take a ControlNet that was made for this U-Net"
        )
    return {MID_RESIDUAL: mid} | {f"{DOWN_RESIDUAL}{i}": residual for i, residual in enumerate(down)}


UNET_2D_CONDITION = Family(
    library="diffusers",
    class_name="UNet2DConditionModel",
    describe=_describe,
    is_denoiser=True,
    is_controllable=True,
    form=_form,
    straight=frozenset(
        {
            *("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"),
            *("StableDiffusionInstructPix2PixPipeline", "StableDiffusionUpscalePipeline"),
            *("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline"),
            *("StableDiffusionInpaintPipeline", "StableDiffusionXLInpaintPipeline"),
            *("LatentConsistencyModelPipeline", "LatentConsistencyModelImg2ImgPipeline"),
            "LDMClassToImagePipeline",
        }
    ),
)
