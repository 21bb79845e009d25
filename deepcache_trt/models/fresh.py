"""A model's config, and new models of it: real, without values, or on fake tensors."""

from collections.abc import Mapping
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode


def config_of(model: Any) -> dict[str, Any]:
    """The complete config of a model of diffusers or transformers."""
    return model.config.to_dict() if hasattr(model.config, "to_dict") else dict(model.config)


def dtype_of(model: Any) -> str:
    """The precision of a model's weights, as "float16"."""
    return str(next(model.parameters()).dtype).removeprefix("torch.")


def model_from_config(model_class: Any, config: Mapping[str, Any]) -> torch.nn.Module:
    """Construct a model of diffusers or transformers in torch's default dtype, its weights as they are initialised.

    Args:
        model_class: a class that `architecture_of` covers.
        config: its config, as its library stores it: `dict(model.config)` or `model.config.to_dict()`.
    """
    model: torch.nn.Module
    if hasattr(model_class, "from_config"):
        model = model_class.from_config(dict(config))
    else:
        # transformers builds inner models in the dtype that the config names.
        model = model_class(model_class.config_class.from_dict({**config, "dtype": "float32"}))
    return model.eval()


def empty_model(model_class: Any, config: Mapping[str, Any]) -> torch.nn.Module:
    """`model_from_config` with its weights on "meta"; its buffers have their values."""
    with _Unallocated():
        model = model_from_config(model_class, config)
    empty: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            new = torch.nn.Parameter(weight.detach().to("meta"), requires_grad=weight.requires_grad)
            setattr(module, name, empty.setdefault(id(weight), new))
    return model


class _Unallocated(TorchFunctionMode):
    """In this thread `torch.empty`, of which layers make their weights, gives tensors on "meta".

    accelerate's `init_empty_weights` replaces a method of all modules, for the models that other threads make too.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        elsewhere = {"device": "meta"} if function is torch.empty else {}
        return function(*args, **{**(kwargs or {}), **elsewhere})


def fake_model(model_class: Any, config: Mapping[str, Any], dtype: str) -> torch.nn.Module:
    """`model_from_config` on fake tensors: structure and shapes, without memory for weights."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = model_from_config(model_class, config)
        for module in model.modules():  # `model.to(dtype)` fails on fake parameters
            for name, weight in module.named_parameters(recurse=False):
                module.register_parameter(name, torch.nn.Parameter(_cast(weight.detach(), dtype)))
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = _cast(buffer, dtype)
    return model


def _cast(tensor: torch.Tensor, dtype: str) -> torch.Tensor:
    return tensor.to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor
