"""LoRA adapters of a live model, merged into plain weights for engines.

diffusers adds adapters to a model's layers by way of peft; `set_adapters` chooses among them and `fuse_lora` adds them
to the weights in place, which rounds. Engines get W + Σ s·B·A (Hu et al. 2021, equation 3), always computed from the
same W, so that the same adapters give the same weights bit for bit, whatever was fused and unfused in between.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from deepcache_trt.errors import UnsupportedError

# How far a weight may have drifted, as a share of its norm, to be taken for the remembered one after (un)fusing.
_DRIFT = 1e-2

# Where peft keeps a wrapped layer, and its own tensors beside it.
_BASE, _OWN = ".base_layer.", ".lora_"


def has_adapters(model: Any) -> bool:
    """Whether peft has added adapters to the model, active or not."""
    return bool(getattr(model, "peft_config", None))


def adapter_state(model: Any) -> tuple[Any, ...]:
    """What is switched on and how strongly; changes with `set_adapters`, `fuse_lora` and scales."""
    if not has_adapters(model):
        return ()
    return tuple(
        (path, _counting(layer), tuple(layer.merged_adapters), tuple(sorted(layer.scaling.items())))
        for path, layer in _layers(model)
    )


def check_mergeable(model: Any) -> None:
    """Raise UnsupportedError where an adapter is more than a product of two matrices on a weight."""
    from peft.tuners.lora import LoraLayer
    from peft.tuners.tuners_utils import BaseTunerLayer

    for path, module in model.named_modules():
        if not isinstance(module, BaseTunerLayer):
            continue
        if not isinstance(module, LoraLayer):
            raise UnsupportedError(f"{path} has an adapter of type {type(module).__name__}; {_CURE}")
        if module.lora_variant or any(module.lora_bias.values()):
            kind = "a bias" if any(module.lora_bias.values()) else ", ".join(map(str, module.lora_variant.values()))
            raise UnsupportedError(f"{path} has a LoRA with {kind}; {_CURE}")


_CURE = "engines take plain LoRAs; call pipe.fuse_lora() and then pipe.unload_lora_weights() first"


@torch.no_grad()
def base_weights(model: Any, remembered: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The adapted weights as they were without adapters, by their names in the state dict.

    Args:
        model: with adapters.
        remembered: what this function returned before; a weight that still fits is taken from there, so that fusing
            and unfusing, which rounds each time, adds up to nothing.
    """
    base = {}
    for path, layer in _layers(model):
        name = f"{path}.weight"
        live = layer.get_base_layer().weight.detach()
        unmerged = (live.float() - _delta(layer, tuple(layer.merged_adapters))).to(live.dtype).cpu()
        known = remembered.get(name)
        base[name] = known if known is not None and _is_close(known, unmerged) else unmerged.clone()
    return base


@torch.no_grad()
def plain_state(model: Any, base: Mapping[str, torch.Tensor], *, adapters: bool) -> dict[str, torch.Tensor]:
    """A state dict under the names that the model had before peft.

    Args:
        model: with adapters.
        base: from `base_weights`.
        adapters: whether to merge those that count now.
    """
    state = {
        name.replace(_BASE, "."): tensor.detach() for name, tensor in model.state_dict().items() if _OWN not in name
    }
    for path, layer in _layers(model):
        name = f"{path}.weight"
        weight = base[name]
        counting = _counting(layer) if adapters else ()
        if counting:
            weight = (weight.float() + _delta(layer, counting).cpu()).to(weight.dtype)
        state[name] = weight
    return state


def _layers(model: Any) -> Iterator[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    return ((path, module) for path, module in model.named_modules() if isinstance(module, LoraLayer))


def _counting(layer: Any) -> tuple[str, ...]:
    """The adapters that the layer's own `forward` would apply: those merged, else those active."""
    if layer.disable_adapters:
        return ()
    adapters = layer.merged_adapters or layer.active_adapters
    return tuple(adapter for adapter in adapters if adapter in layer.scaling)


def _delta(layer: Any, adapters: tuple[str, ...]) -> torch.Tensor:
    weight = layer.get_base_layer().weight
    total = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
    for adapter in adapters:
        total += layer.get_delta_weight(adapter).float()
    return total


def _is_close(known: torch.Tensor, live: torch.Tensor) -> bool:
    if known.shape != live.shape or known.dtype != live.dtype:
        return False
    return bool((known.float() - live.float()).norm() <= _DRIFT * known.float().norm())
