"""From the call that a pipeline makes to the named tensors of a graph: the inverse of `Architecture.call`.

Arguments that the graph does not have are refused, never ignored.
"""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models.architectures import Architecture
from deepcache_trt.tensors import TensorSpec

if TYPE_CHECKING:
    import torch

# Attention classes that compute what the exported graph computes.
_PLAIN_PROCESSORS = {
    *("AttnProcessor", "AttnProcessor2_0", "SlicedAttnProcessor"),
    *("XFormersAttnProcessor", "XLAFlashAttnProcessor2_0"),
}

_OUTPUT_CLASSES = {
    "UNet2DConditionModel": "UNet2DConditionOutput",
    "UNet2DModel": "UNet2DOutput",
    "UNetSpatioTemporalConditionModel": "UNetSpatioTemporalConditionOutput",
    "DiTTransformer2DModel": "Transformer2DModelOutput",
}

_CURES = {
    "attention_mask": "leave it out; the prompt can be shortened instead",
    "encoder_attention_mask": "leave it out; the prompt can be shortened instead",
    "cross_attention_kwargs": "leave it out; to use a LoRA call pipe.fuse_lora(lora_scale=…) and "
    "pipe.unload_lora_weights() first",
    "down_block_additional_residuals": "run ControlNet and T2I-adapter pipelines without the cache for now",
    "mid_block_additional_residual": "run ControlNet pipelines without the cache for now",
    "down_intrablock_additional_residuals": "run T2I-adapter pipelines without the cache for now",
    "image_embeds": "run IP-Adapter pipelines without the cache for now",
}


def tensors_from_call(architecture: Architecture, arguments: Mapping[str, Any]) -> dict[str, "torch.Tensor"]:
    """Name the tensors of one denoiser call, each in the dtype and layout that the graph takes.

    Args:
        architecture: the inputs that there are.
        arguments: the call's arguments by the names in the model's own `forward`.

    Raises:
        UnsupportedError: an argument that the graph does not have, or an input that the call lacks.
    """
    given = {name: value for name, value in arguments.items() if name != "return_dict" and not _is_empty(name, value)}
    given.update(given.pop("added_cond_kwargs", None) or {})
    if "hidden_states" in given:  # a DiT's name for its sample
        given["sample"] = given.pop("hidden_states")
    tensors: dict[str, torch.Tensor] = {}
    for spec in architecture.inputs:
        if given.get(spec.name) is None:
            raise UnsupportedError(f"the denoiser is called without {spec.name}, which its graph takes ({spec})")
        tensors[spec.name] = _to_spec(given.pop(spec.name), spec, tensors.get("sample"))
    if given:
        name = next(iter(given))
        cure = _CURES.get(name, "leave it out, or call pipe.disable_cache() for this image")
        raise UnsupportedError(f"{name}={_short(given[name])} is not an input of the graph; {cure}")
    return tensors


def _is_empty(name: str, value: Any) -> bool:
    return value is None or (name in ("cross_attention_kwargs", "added_cond_kwargs") and not value)


def _short(value: Any) -> str:
    import torch

    return f"a tensor of shape {list(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)[:80]


def _to_spec(value: Any, spec: TensorSpec, sample: "torch.Tensor | None") -> "torch.Tensor":
    import torch

    dtype = getattr(torch, spec.dtype)
    if spec.name == "timestep":
        value = _timestep(value, spec, sample)
    device = value.device if sample is None else sample.device
    return value.to(device=device, dtype=dtype).contiguous()


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


def wrap_output(model: "torch.nn.Module", prediction: "torch.Tensor") -> Any:
    """The prediction in the output class that the model's own `forward` returns."""
    kind = type(model)
    return getattr(sys.modules[kind.__module__], _OUTPUT_CLASSES[kind.__name__])(sample=prediction)


def check_untouched(model: Any) -> None:
    """Raise UnsupportedError where the live model computes something else than its exported graph would."""
    if getattr(model, "peft_config", None):
        raise UnsupportedError(
            "the U-Net has unfused LoRA adapters, which its graph does not; "
            "call pipe.fuse_lora() and pipe.unload_lora_weights() first"
        )
    if any(getattr(block, "s1", None) for block in getattr(model, "up_blocks", ())):
        raise UnsupportedError("FreeU is switched on, which the graph does not have; call pipe.disable_freeu()")
    processors: Mapping[str, Any] = getattr(model, "attn_processors", {})
    foreign = {type(processor).__name__ for processor in processors.values()} - _PLAIN_PROCESSORS
    if foreign:
        raise UnsupportedError(
            f"the U-Net's attention processors {', '.join(sorted(foreign))} are not in its graph; "
            f"call pipe.unet.set_attn_processor(AttnProcessor2_0()) from diffusers.models.attention_processor"
        )
