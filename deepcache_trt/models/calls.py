"""From the call that a pipeline makes to the named tensors of a graph: the inverse of `Architecture.call`.

Arguments that the graph does not have are refused, never ignored, and so are numbers that no picture comes of: they are
named where they come from, and never decoded to one.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from deepcache_trt.errors import ArgumentError, BackendError, UnsupportedError
from deepcache_trt.models.architecture import DOWN_RESIDUAL, MID_RESIDUAL, Architecture, CallForm
from deepcache_trt.models.processors import check_processors
from deepcache_trt.models.registry import family_of
from deepcache_trt.tensors import TensorSpec

if TYPE_CHECKING:
    import torch

# Arguments that ask for a form of the answer; `Architecture.answer` reads them.
_FORMS = ("return_dict", "output_hidden_states")

_FALSE_IS_NONE = ("cross_attention_kwargs", "added_cond_kwargs", "output_attentions")

# What pipelines of diffusers call it.
_ARGUMENTS = {"sample": "latents", "encoder_hidden_states": "prompt_embeds"}


def argument_of(name: str) -> str:
    """What pipelines of diffusers call an input of a graph."""
    return _ARGUMENTS.get(name, name)


_LORA_SCALE = (
    "leave it out; how strongly a LoRA counts is set with pipe.set_adapters(name, scale) or "
    "pipe.fuse_lora(lora_scale=scale)"
)


def form_of(model: Any, arguments: Mapping[str, Any]) -> CallForm:
    """What of a call makes another graph of `model`; arguments as for `tensors_from_call`."""
    return family_of(type(model).__name__).form(model, arguments)


def tensors_from_call(
    architecture: Architecture, model: Any, arguments: Mapping[str, Any]
) -> dict[str, "torch.Tensor"]:
    """Name the tensors of one call, each in the dtype and layout that the graph takes.

    Args:
        architecture: of `model`: the inputs that there are.
        model: of any family.
        arguments: the call's arguments by the names in the `forward` that the graph stands for.

    Raises:
        UnsupportedError: an argument that the graph does not have, or an input that the call lacks.
    """
    kind = type(model).__name__
    stated = {name: value for name, value in arguments.items() if name not in _FORMS and not _is_empty(name, value)}
    given = architecture.read(architecture, model, stated)
    tensors: dict[str, torch.Tensor] = {}
    for spec in architecture.inputs:
        if given.get(spec.name) is None:
            raise UnsupportedError(f"{kind} is called without {spec.name}, which its graph takes ({spec})")
        first = next(iter(tensors.values()), None)
        tensors[spec.name] = _to_spec(given.pop(spec.name), spec, first)
    _check_looked_up(architecture, kind, tensors)
    if given:
        name = next(iter(given))
        raise UnsupportedError(
            f"{name}={_short(given[name])} is not an input of the graph of {kind}; "
            f"{_cure(name, given[name], architecture)}"
        )
    return tensors


def _check_looked_up(architecture: Architecture, kind: str, tensors: Mapping[str, "torch.Tensor"]) -> None:
    """Refuse what is in none of a model's tables: some engines take what lies beside them, and say nothing."""
    for name, rows in architecture.rows.items():
        low, high = (int(end) for end in tensors[name].aminmax())
        if low < 0 or high >= rows:
            raise ArgumentError(
                f"{name} has {low if low < 0 else high}, and {kind} knows 0 to {rows - 1}; give one of these"
            )


def _is_empty(name: str, value: Any) -> bool:
    if name == "cross_attention_kwargs" and value == {"scale": 1.0}:
        return True  # every LoRA as strong as it is
    return value is None or (name in _FALSE_IS_NONE and not value)


def _cure(name: str, value: Any, architecture: Architecture) -> str:
    if not architecture.is_denoiser:
        return "leave it out, or keep this component off the engines: name the others in components=(…)"
    if name == "cross_attention_kwargs" and "scale" in value:
        return _LORA_SCALE
    return architecture.cures.get(name, "leave it out, or call pipe.disable_cache() for this image")


def _short(value: Any) -> str:
    import torch

    return f"a tensor of shape {list(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)[:80]


def _to_spec(value: Any, spec: TensorSpec, first: "torch.Tensor | None") -> "torch.Tensor":
    import torch

    dtype = getattr(torch, spec.dtype)
    if spec.name == "sample" and value.dtype != dtype:
        raise UnsupportedError(
            f"the latents are {str(value.dtype).removeprefix('torch.')} and the model takes {spec.dtype}, which "
            f"diffusers does not mix either; pass latents.to(torch.{spec.dtype})"
        )
    if spec.name == "timestep":
        value = _timestep(value, spec, first)
    if spec.name.startswith((DOWN_RESIDUAL, MID_RESIDUAL)):
        value = _broadcast(value, spec, first)
    device = value.device if first is None else first.device
    tensor: torch.Tensor = value.to(device=device, dtype=dtype).contiguous()
    return tensor


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

    timestep = torch.as_tensor(value).reshape(-1)
    if spec.shape == (1,) and len(timestep) > 1:
        if not bool((timestep == timestep[0]).all()):
            raise UnsupportedError("the images of a batch have different timesteps; call the U-Net once for each")
        timestep = timestep[:1]
    if spec.shape == ("batch",) and len(timestep) == 1:
        assert sample is not None
        timestep = timestep.expand(len(sample))
    return timestep


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


def check_given(part: str, tensors: Mapping[str, "torch.Tensor"]) -> None:
    """Raise UnsupportedError for arguments of a model that are NaN or infinite."""
    for name, count, _ in _looked_at(tensors):
        if count:
            raise UnsupportedError(
                f"{count} of {tensors[name].numel()} values of {argument_of(name)} that {part} is given are NaN or "
                f"infinite, of which no picture comes; give finite ones"
            )


def check_ungraded(part: str, arguments: Mapping[str, Any]) -> None:
    """Raise UnsupportedError where a call is part of a graph of autograd, of which an engine would be no part."""
    import torch
    from torch.utils._pytree import tree_leaves

    for name, value in arguments.items() if torch.is_grad_enabled() else ():
        if any(isinstance(leaf, torch.Tensor) and leaf.requires_grad for leaf in tree_leaves(value)):
            raise UnsupportedError(
                f"{part} is called for a gradient, as {name} requires one, and engines give none; call "
                f"pipe.disable_cache(), or disable() of the helper, before, or call it under torch.no_grad()"
            )


def check_made(title: str, outputs: Mapping[str, "torch.Tensor"], *, given: Callable[[], None] | None = None) -> None:
    """Raise BackendError for what engines gave that is NaN, infinite or nothing at all.

    Args:
        title: which engines, as "the onnxruntime engines of digits unet".
        outputs: of them, by name.
        given: called where they are; raises if it is no wonder, for what they were given.
    """
    for name, count, is_zero in _looked_at(outputs):
        if count or is_zero:
            if given is not None:
                given()
            what = f"{count} NaN or infinite values of {outputs[name].numel()}" if count else "nothing but zeros"
            raise BackendError(
                f"{title} gave {what} in {name}, of which no picture comes; try dtype float32 or bfloat16, another "
                f"backend, or deepcache-trt store verify"
            )


def _looked_at(tensors: Mapping[str, "torch.Tensor"]) -> Iterator[tuple[str, int, bool]]:
    """How many values of each tensor are NaN or infinite, and whether all are zero; a GPU is waited for once."""
    import torch

    floating = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel()}
    if floating:
        seen = [torch.stack(((~each.isfinite()).sum(), each.count_nonzero())) for each in floating.values()]
        for name, (bad, nonzero) in zip(floating, torch.stack(seen).tolist(), strict=True):
            yield name, bad, not nonzero
