"""From the call that a pipeline makes to the named tensors of a graph and back: the inverse of `Architecture.call`.

Arguments that the graph does not have are refused, never ignored.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models.controlnet import RESIDUAL_SCALES
from deepcache_trt.models.ip_adapter import image_shapes, ip_adapter_tensors
from deepcache_trt.models.part import DOWN_RESIDUAL, MID_RESIDUAL, OUTPUT, Architecture, CallForm
from deepcache_trt.models.processors import check_processors, image_projections
from deepcache_trt.models.text_encoders import HIDDEN_STATE
from deepcache_trt.tensors import TensorSpec

if TYPE_CHECKING:
    import torch

_OUTPUT_CLASSES = {
    "UNet2DConditionModel": "UNet2DConditionOutput",
    "UNet2DModel": "UNet2DOutput",
    "UNetSpatioTemporalConditionModel": "UNetSpatioTemporalConditionOutput",
    "DiTTransformer2DModel": "Transformer2DModelOutput",
    "ControlNetModel": "ControlNetOutput",
    "CLIPTextModel": "BaseModelOutputWithPooling",
    "CLIPTextModelWithProjection": "CLIPTextModelOutput",
}

# Arguments of `forward` that have another name in the graph.
_RENAMED = {
    "DiTTransformer2DModel": {"hidden_states": "sample"},
    **{decoder: {"sample": "latent"} for decoder in ("AutoencoderKL", "AutoencoderKLTemporalDecoder")},
}

# Arguments that ask for a form of the answer; `wrap_output` reads them.
_FORMS = ("return_dict", "output_hidden_states")

_FALSE_IS_NONE = ("cross_attention_kwargs", "added_cond_kwargs", "output_attentions")

# What a U-Net is called with that a ControlNet steers.
_DOWN, _MID = "down_block_additional_residuals", "mid_block_additional_residual"

_CURES = {
    "attention_mask": "leave it out; the prompt can be shortened instead",
    "encoder_attention_mask": "leave it out; the prompt can be shortened instead",
    "cross_attention_kwargs": "leave it out; how strongly a LoRA counts is set with pipe.set_adapters(name, scale) or "
    "pipe.fuse_lora(lora_scale=scale)",
    _DOWN: f"without {_MID} diffusers takes them for those of a T2I-adapter; "
    "run T2I-adapter pipelines without the cache for now",
    _MID: f"diffusers ignores it without {_DOWN}: give both, or run this pipeline without the cache",
    "down_intrablock_additional_residuals": "call pipe.disable_cache() to run a T2I-adapter in plain diffusers",
    "image_embeds": "load the IP-Adapter that they are for",
    "ip_adapter_masks": "leave them out, or call pipe.disable_cache() for this image",
}


def form_of(model: Any, arguments: Mapping[str, Any]) -> CallForm:
    """What of a call makes another graph of `model`; arguments as for `tensors_from_call`."""
    return CallForm(
        controlled=_is_controlled(arguments), frames=_frames(model, arguments), images=image_shapes(arguments)
    )


def _is_controlled(arguments: Mapping[str, Any]) -> bool:
    """Whether a U-Net is called with the residuals of a ControlNet, by the rule of diffusers: with both kinds."""
    return arguments.get(_DOWN) is not None and arguments.get(_MID) is not None


def _frames(model: Any, arguments: Mapping[str, Any]) -> int | None:
    """How many frames a denoiser of videos is called with, if not as many as its config says; else None."""
    own, sample = getattr(model.config, "num_frames", None), arguments.get("sample")
    # sample: [B, F, C, H/8, W/8]
    return sample.shape[1] if own is not None and sample is not None and sample.shape[1] != own else None


def tensors_from_call(
    architecture: Architecture, model: Any, arguments: Mapping[str, Any]
) -> dict[str, "torch.Tensor"]:
    """Name the tensors of one call, each in the dtype and layout that the graph takes.

    Args:
        architecture: of `model`: the inputs that there are.
        model: a U-Net, transformer, VAE or text encoder.
        arguments: the call's arguments by the names in the `forward` that the graph stands for.

    Raises:
        UnsupportedError: an argument that the graph does not have, or an input that the call lacks.
    """
    kind = type(model).__name__
    given = {
        _RENAMED.get(kind, {}).get(name, name): value
        for name, value in arguments.items()
        if name not in _FORMS and not _is_empty(name, value, architecture)
    }
    given.update(given.pop("added_cond_kwargs", None) or {})
    if isinstance(given.get("cross_attention_kwargs"), Mapping):
        given = {**_masks(given["cross_attention_kwargs"]), **given}
    if image_projections(model):
        given.update(ip_adapter_tensors(model, given.pop("image_embeds", None)))
    if architecture.controlled and _is_controlled(given):
        given.update(_named_residuals(given.pop(_DOWN), given.pop(_MID), architecture, kind))
    if kind == "ControlNetModel":
        given[RESIDUAL_SCALES] = _residual_scales(model, given, len(architecture.outputs))
    if kind == "AutoencoderKLTemporalDecoder":
        _take_out_one_video(given)
    tensors: dict[str, torch.Tensor] = {}
    for spec in architecture.inputs:
        if given.get(spec.name) is None:
            raise UnsupportedError(f"{kind} is called without {spec.name}, which its graph takes ({spec})")
        first = next(iter(tensors.values()), None)
        tensors[spec.name] = _to_spec(given.pop(spec.name), spec, first)
    if given:
        name = next(iter(given))
        raise UnsupportedError(
            f"{name}={_short(given[name])} is not an input of the graph of {kind}; "
            f"{_cure(name, given[name], architecture)}"
        )
    return tensors


def _take_out_one_video(given: dict[str, Any]) -> None:
    """What tells a temporal decoder how its frames are split into videos; the graph takes one video."""
    frames, indicator = given.pop("num_frames", 1), given.pop("image_only_indicator")
    if not len(given["latent"]) == frames == indicator.shape[-1]:
        raise UnsupportedError(
            f"num_frames={frames} of {len(given['latent'])} latents: the graph of a temporal decoder takes the frames "
            f"of one video; decode each video by itself"
        )


def _masks(cross_attention_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: cross_attention_kwargs[name] for name in ("ip_adapter_masks",) if name in cross_attention_kwargs}


def _named_residuals(down: Sequence[Any], mid: Any, architecture: Architecture, kind: str) -> dict[str, Any]:
    expected = sum(spec.name.startswith(DOWN_RESIDUAL) for spec in architecture.inputs)
    if len(down) != expected:
        raise UnsupportedError(
            f"{_DOWN} has {len(down)} tensors, {kind} has {expected} residuals; "
            f"take a ControlNet that was made for this U-Net"
        )
    return {MID_RESIDUAL: mid} | {f"{DOWN_RESIDUAL}{i}": residual for i, residual in enumerate(down)}


def _residual_scales(model: Any, given: dict[str, Any], count: int) -> "torch.Tensor":
    """[count] float32: how diffusers weighs the residuals of a ControlNet, the deepest most in guess mode."""
    import torch

    scale, guess_mode = given.pop("conditioning_scale", 1.0), given.pop("guess_mode", False)
    depths = torch.logspace(-1, 0, count) if guess_mode and not model.config.global_pool_conditions else 1.0
    return torch.full([count], float(scale)) * depths


def _is_empty(name: str, value: Any, architecture: Architecture) -> bool:
    if name == "attention_mask" and architecture.tokens is not None and value is not None:
        return bool(value.all())  # a text encoder told to attend to all of the text does nothing else
    if name == "cross_attention_kwargs" and value == {"scale": 1.0}:
        return True  # every LoRA as strong as it is
    return value is None or (name in _FALSE_IS_NONE and not value)


def _cure(name: str, value: Any, architecture: Architecture) -> str:
    if architecture.is_denoiser:
        of_a_lora = name != "cross_attention_kwargs" or "scale" in value
        return (_CURES if of_a_lora else {}).get(name, "leave it out, or call pipe.disable_cache() for this image")
    return "leave it out, or keep this component off the engines: name the others in components=(…)"


def _short(value: Any) -> str:
    import torch

    return f"a tensor of shape {list(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)[:80]


def _to_spec(value: Any, spec: TensorSpec, first: "torch.Tensor | None") -> "torch.Tensor":
    import torch

    dtype = getattr(torch, spec.dtype)
    if spec.name == "timestep":
        value = _timestep(value, spec, first)
    if spec.name.startswith((DOWN_RESIDUAL, MID_RESIDUAL)):
        value = _broadcast(value, spec, first)
    device = value.device if first is None else first.device
    return value.to(device=device, dtype=dtype).contiguous()


def _broadcast(residual: "torch.Tensor", spec: TensorSpec, sample: "torch.Tensor | None") -> "torch.Tensor":
    """As adding it does: a ControlNet that pools its conditions gives residuals of one row and one column."""
    assert sample is not None
    if residual.shape[2:] != (1, 1):
        return residual
    _, _, height, width = spec.resolve({"batch": len(sample), "height": sample.shape[-2], "width": sample.shape[-1]})
    return residual.expand(-1, -1, height, width)


def _timestep(value: Any, spec: TensorSpec, sample: "torch.Tensor | None") -> "torch.Tensor":
    """A scalar, [] or [1] as it comes; [B] if the graph takes one for each image, or all of them are equal."""
    import torch

    value = torch.as_tensor(value).reshape(-1)
    if spec.shape == (1,) and len(value) > 1:
        if not bool((value == value[0]).all()):
            raise UnsupportedError("the images of a batch have different timesteps; call the U-Net once for each")
        value = value[:1]
    if spec.shape == ("batch",) and len(value) == 1:
        assert sample is not None
        value = value.expand(len(sample))
    return value


def wrap_output(model: Any, outputs: Mapping[str, "torch.Tensor"], arguments: Mapping[str, Any]) -> Any:
    """What the `forward` that the graph stands for returns, in the form that the call asks for.

    Args:
        model: as in `tensors_from_call`.
        outputs: of the graph, by name.
        arguments: as in `tensors_from_call`.
    """
    kind = type(model)
    if "image" in outputs:
        return outputs["image"]  # a decoder gives a bare tensor
    output_class = getattr(sys.modules[kind.__module__], _OUTPUT_CLASSES[kind.__name__])
    if OUTPUT in outputs or MID_RESIDUAL in outputs:
        if OUTPUT in outputs:
            wrapped = output_class(sample=outputs[OUTPUT])
        else:
            down = tuple(outputs[f"{DOWN_RESIDUAL}{i}"] for i in range(len(outputs) - 1))
            wrapped = output_class(down_block_res_samples=down, mid_block_res_sample=outputs[MID_RESIDUAL])
        return wrapped if arguments.get("return_dict", True) else wrapped.to_tuple()
    fields: dict[str, Any] = {name: tensor for name, tensor in outputs.items() if not name.startswith(HIDDEN_STATE)}
    if arguments.get("output_hidden_states", model.config.output_hidden_states):
        layers = range(model.config.num_hidden_layers + 1)
        fields["hidden_states"] = tuple(outputs[f"{HIDDEN_STATE}{i}"] for i in layers)
    wrapped = output_class(**fields)
    return wrapped if arguments.get("return_dict", model.config.return_dict) else wrapped.to_tuple()


def check_untouched(model: Any) -> None:
    """Raise UnsupportedError where the live model computes something else than its exported graph would."""
    kind = type(model).__name__
    if any(getattr(block, "s1", None) for block in getattr(model, "up_blocks", ())):
        raise UnsupportedError("FreeU is switched on, which the graph does not have; call pipe.disable_freeu()")
    if getattr(model.config, "output_attentions", False):
        raise UnsupportedError(
            f"the config of {kind} asks for attentions, which its graph does not give; "
            f"set config.output_attentions = False"
        )
    check_processors(model)
